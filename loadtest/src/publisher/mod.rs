//! Publishing: changes are made on a schedule that does not wait for the gateway. Each change is announced to
//! the workers before its COMMIT is sent.

mod calls;
mod change;
mod events;
mod outcome;
mod schedule;

pub(crate) use self::calls::{CallPool, CallWriter};
pub(crate) use self::change::Publish;
pub(crate) use self::events::{EntityPool, EventWriter};
pub(crate) use self::schedule::Publisher;
