//! The command line of `warden-compare baseline`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use bench_support::duration::parse_duration;
use clap::Args;

use crate::plan::PublishPlan;

const AFTER_HELP: &str = "\
Any WebSocket client may connect, at any path. A path that ends in /N puts the socket into group N.
The baseline prints one JSON line when it listens, and one when everything is written. Its cost is the CPU
time of its process; `warden-compare` measures it in every round.";

/// Runs the bare write loop, which is the least that a server of events costs on this machine
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BaselineArgs {
    /// Address to listen on; port 0 selects a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(super) listen: SocketAddr,

    /// Start when this many sockets are open
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) sockets: usize,

    /// Events per second, each to all sockets
    #[arg(short, long, default_value_t = 20.0)]
    rate: f64,

    /// How long to send
    #[arg(short, long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,

    /// Length of an event on the wire, including the header of its frame
    #[arg(long, default_value_t = 250)]
    bytes: usize,

    /// Read plans from standard input, one JSON line each, until it ends
    #[arg(long, hide = true)]
    pub(super) control: bool,
}

impl BaselineArgs {
    /// The plan that the options describe.
    pub(super) fn plan(&self) -> anyhow::Result<PublishPlan> {
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate must be above 0 events per second");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by hours of sending"
        )]
        let bursts = (self.rate * self.duration.as_secs_f64()).ceil() as u64;
        // 4 bytes are the frame's header, 2 the mark.
        let pad_bytes = self.bytes.saturating_sub(6);
        Ok(PublishPlan { bursts, burst: 1, bursts_per_second: self.rate, groups: 1, pad_bytes })
    }
}
