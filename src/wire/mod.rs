//! The wire format: Phoenix Channels V2 messages in WebSocket frames, topics, events, and close codes.
//!
//! This module is pure functions and plain data. It does no I/O, knows neither tasks nor sockets, and imports
//! no other module.

mod close;
mod codec;
mod event;
mod frame;
mod framing;
mod mark;
mod snapshot;
mod topic;

pub use close::{CLOSE_CODES, CloseCode, Retry};
pub use codec::{ClientMessage, DecodeError, Status, decode, push, reply};
pub(crate) use codec::{NAME_BYTES_MAX, REF_BYTES_MAX};
pub use event::{
    CURSOR_EVENT, Event, EventContent, RESYNC_EVENT, REVOKED_EVENT, TOPICS_EVENT, UNREVOKED_EVENT,
    append_event_frame,
};
pub use frame::{close_frame, close_frame_without_reason, is_close_frame, text_frame};
pub use framing::Framing;
pub use mark::{MARK_EVENT, mark_frame};
pub use snapshot::{PageEnd, SNAPSHOT_EVENT, snapshot_frame};
pub use topic::{EntityIdType, ORG_TOPIC, Topic, is_entity_kind};
