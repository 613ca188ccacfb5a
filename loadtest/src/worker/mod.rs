//! A worker: a process that holds sockets. It has one thread, one loop, and neither a task nor a buffer per
//! socket. It executes commands, checks everything that its sockets receive, and reports every interval. It
//! publishes nothing, and ends when the main process ends.

mod bookkeeping;
mod commands;
mod event_cache;
mod event_loop;
mod failure;
mod population;
mod receive;
mod schedule;
mod socket;
mod state;

pub(crate) use self::event_loop::run;
