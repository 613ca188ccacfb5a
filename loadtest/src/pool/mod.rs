//! The worker processes, seen from the main process: they are started, get commands, and send reports.

mod command_sender;
mod worker_pool;
mod worker_process;

pub(crate) use self::command_sender::CommandSender;
pub(crate) use self::worker_pool::WorkerPool;
pub(crate) use self::worker_process::{WorkerProcess, process_count, start};
