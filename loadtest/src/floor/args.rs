//! The command line of `warden-loadtest floor`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use super::Plan;

const AFTER_HELP: &str = "\
Any WebSocket client may connect, at any path; a path that ends in /N puts the socket into group N.
Prints one JSON line when it listens, and one when everything is written. Its cost is the CPU time of
this process: `warden-loadtest compare` measures it, in turn with the gateway.";

/// The bare write loop: what a server of events costs at the least on this machine
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct FloorArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(super) listen: SocketAddr,

    /// Begin when so many sockets are open
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) sockets: usize,

    /// Events a second, each to all sockets
    #[arg(short, long, default_value_t = 20.0)]
    rate: f64,

    /// How long to send
    #[arg(short, long, default_value = "10s", value_parser = crate::args::parse_duration)]
    duration: Duration,

    /// Of an event on the wire, its frame's header included
    #[arg(long, default_value_t = 250)]
    bytes: usize,

    /// Take plans from standard input, one JSON line each, until it ends
    #[arg(long, hide = true)]
    pub(super) control: bool,
}

impl FloorArgs {
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate must be above 0 events a second");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by hours of sending"
        )]
        let bursts = (self.rate * self.duration.as_secs_f64()).ceil() as u64;
        // The frame's header and the mark.
        let pad_bytes = self.bytes.saturating_sub(6);
        Ok(Plan { bursts, burst: 1, bursts_per_second: self.rate, groups: 1, pad_bytes })
    }
}
