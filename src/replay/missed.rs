//! Which events a client has missed, and whether a node has dispatched everything that the client has seen.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::wire::{Event, Topic};

/// Events in the order of their ids. Replays share them.
pub(super) type Events = Arc<Vec<Arc<Event>>>;

/// Whether a client with the cursor `since` missed this event on the topic, if the node's position is
/// `until`.
pub(super) fn is_missed(event: &Event, topic: &Topic, since: &Cursor, until: &Cursor) -> bool {
    event.reaches(topic) && until.covers(event.xid, event.id) && !since.covers(event.xid, event.id)
}

/// Whether a node at position `now` has dispatched everything that a client with this cursor has seen. The
/// answer may be a false no, which the tailer's next poll corrects, but never a false yes.
///
/// There are two ways to be certain. Either the node's first point includes the client's second point, or the
/// client's cursor is from the very pages that the node is reading. In all other cases the client may have
/// seen an event of the pages that this node has not read yet, and would receive it twice.
pub(super) fn has_reached(now: &Cursor, since: &Cursor) -> bool {
    let is_same_batch = now.from == since.from && now.to == since.to;
    now.from.includes(&since.to) || (is_same_batch && since.id <= now.id)
}
