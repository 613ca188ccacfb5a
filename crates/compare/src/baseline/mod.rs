//! `warden-compare baseline`: the bare write loop as a server of its own. The figures of all other servers
//! are divided by its figures.
//!
//! The only work is to pass one ready-framed buffer to every socket with write(2), on one thread. It knows no
//! tokens, topics or organisations. Bytes that the kernel does not accept are kept, sent later, and counted.

mod args;
mod protocol;
mod server;
mod socket;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use anyhow::Context as _;
use mio::Waker;
use serde::Serialize;

pub(crate) use self::args::BaselineArgs;
pub(crate) use self::protocol::{Done, Ready};
use self::server::Server;
use crate::plan::PublishPlan;

/// Runs the baseline until standard input ends, or until its one plan is finished.
pub(crate) fn run(args: &BaselineArgs) -> anyhow::Result<()> {
    let mut server = Server::listen(args.listen)?;
    print_line(&Ready { listen: server.addr()? })?;
    if args.control {
        let (sender, plans) = channel();
        let waker = Arc::new(server.waker()?);
        std::thread::spawn(move || read_plans(&sender, &waker));
        return serve(&mut server, &plans);
    }
    let plan = args.plan()?;
    if std::io::stderr().is_terminal() {
        eprintln!("waiting for {} sockets (Ctrl-C to stop)", args.sockets);
    }
    server.wait_for_sockets(args.sockets)?;
    print_line(&server.publish(&plan)?)
}

/// Publishes one plan after the other, and serves sockets in between.
fn serve(server: &mut Server, plans: &Receiver<PublishPlan>) -> anyhow::Result<()> {
    loop {
        match plans.try_recv() {
            Ok(plan) => print_line(&server.publish(&plan)?)?,
            Err(TryRecvError::Empty) => server.poll(None)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// Reads plans on a thread of its own, because standard input may be of any kind. The thread sleeps while
/// events are sent.
fn read_plans(plans: &Sender<PublishPlan>, waker: &Waker) {
    for line in std::io::stdin().lock().lines() {
        let Ok(plan) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
        else {
            eprintln!("warden-compare baseline: a line on standard input is not a plan");
            break;
        };
        if plans.send(plan).is_err() || waker.wake().is_err() {
            return;
        }
    }
    // The process that started the baseline has ended, so the baseline must end too.
    std::process::exit(0);
}

fn print_line(line: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
