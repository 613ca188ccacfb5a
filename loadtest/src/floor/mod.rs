//! `warden-loadtest floor`: the bare write loop as a server of its own. It is what every other server is divided
//! by, so it does nothing but to hand one ready-framed buffer to every socket with write(2), on one thread. It
//! knows no tokens, topics or organisations; what the kernel does not take waits, and is counted.

mod args;
mod plan;
mod server;
mod socket;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context as _;
use mio::Waker;
use serde::{Deserialize, Serialize};

pub(crate) use args::FloorArgs;
pub(crate) use plan::{MARK, Plan};
use server::Server;

/// The first line that the floor prints.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Where it listens.
    pub(crate) listen: std::net::SocketAddr,
}

/// The line that the floor prints when a plan is through and nothing waits any more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Buffers handed to the kernel, counting those that it took in parts.
    pub(crate) writes: u64,
    /// Of these, those that the kernel did not take at once and whole.
    pub(crate) queued: u64,
    /// Sockets that left, or were dropped because they read too little.
    pub(crate) left: u64,
    /// The last burst began so much after it was due, in milliseconds.
    pub(crate) lag_ms: f64,
}

/// Runs the floor until standard input ends, or its one plan is through.
pub(crate) fn run(args: &FloorArgs) -> anyhow::Result<()> {
    let mut server = Server::listen(args.listen)?;
    say(&Ready { listen: server.addr()? })?;
    if args.control {
        let (sender, plans) = channel();
        let waker = Arc::new(server.waker()?);
        std::thread::spawn(move || read_plans(&sender, &waker));
        return serve(&mut server, &plans);
    }
    let plan = args.plan()?;
    if std::io::stderr().is_terminal() {
        eprintln!("waiting for {} sockets (Ctrl-C ends)", args.sockets);
    }
    server.wait_for_sockets(args.sockets)?;
    say(&server.publish(&plan)?)
}

/// Publishes plan after plan, and answers sockets meanwhile.
fn serve(server: &mut Server, plans: &Receiver<Plan>) -> anyhow::Result<()> {
    use std::sync::mpsc::TryRecvError;
    loop {
        match plans.try_recv() {
            Ok(plan) => say(&server.publish(&plan)?)?,
            Err(TryRecvError::Empty) => server.poll(None)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// On a thread of its own, because standard input may be anything; it sleeps while events are sent.
fn read_plans(plans: &Sender<Plan>, waker: &Waker) {
    for line in std::io::stdin().lock().lines() {
        let Ok(plan) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
        else {
            eprintln!("warden-loadtest floor: a line on standard input that is no plan");
            break;
        };
        if plans.send(plan).is_err() || waker.wake().is_err() {
            return;
        }
    }
    // Whoever started the floor is gone, and so must the floor be.
    std::process::exit(0);
}

fn say(line: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).context("nobody reads what the floor says")
}
