//! What goes over the wire: Phoenix Channels V2 messages in WebSocket frames, and the close codes.
//!
//! Pure functions and plain data. This module does no I/O, knows no task and no socket, and imports
//! none of the others.

mod close;
mod codec;
mod event;
mod frame;
mod framing;
mod topic;

pub use close::{CLOSE_CODES, CloseCode, Retry};
pub use codec::{ClientMessage, DecodeError, Status, decode, push, reply};
pub use event::{CURSOR_EVENT, Event, RESYNC_EVENT, REVOKED_EVENT, TOPICS_EVENT, append_event_frame};
pub use frame::{close_frame, is_close_frame, text_frame};
pub use framing::Framing;
pub use topic::{EntityIdType, ORG_TOPIC, Topic, is_entity_kind};
