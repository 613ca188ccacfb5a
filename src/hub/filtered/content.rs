//! The bytes of an event for a channel with a filter.

use crate::filter::{ChannelFilter, Selection, Verdict};
use crate::wire::{Event, EventContent, RESYNC_EVENT};

/// Data of the resync that replaces an event on which a filter cannot be evaluated.
const FILTER_DATA: &str = r#"{"reason":"filter"}"#;

/// Result of an event for a channel with a filter.
#[derive(Debug, PartialEq, Eq)]
pub enum Rendered {
    /// This payload.
    Payload(String),
    /// Nothing, because the filter selects the row neither before nor after the change.
    Nothing,
    /// A resync, because the filter cannot be evaluated on the event.
    Unknown,
}

/// Renders an event for a channel with a filter.
#[must_use]
pub fn render(filter: &ChannelFilter, event: &Event, cursor: &str, tx: &str) -> Rendered {
    if event.is_control() {
        return Rendered::Payload(event.payload(cursor, tx));
    }
    match event.watch {
        // A published event is no row.
        None => return Rendered::Nothing,
        Some(Event::UNKNOWN_WATCH) => return Rendered::Unknown,
        Some(_) => {}
    }
    match filter.verdict(&event.data, event.old.as_deref()) {
        None => Rendered::Nothing,
        Some(Verdict::Unknown) => Rendered::Unknown,
        Some(verdict) => Rendered::Payload(payload(filter.select.as_ref(), verdict, event, cursor, tx)),
    }
}

/// The payload for a channel that selects these columns. `Unknown` has none of its own.
pub(in crate::hub) fn payload(
    select: Option<&Selection>,
    verdict: Verdict,
    event: &Event,
    cursor: &str,
    tx: &str,
) -> String {
    let filter = match verdict {
        Verdict::Entered => Some("entered"),
        Verdict::Left => Some("left"),
        Verdict::Selected | Verdict::Unknown => None,
    };
    let Some(select) = select else {
        let content = EventContent { data: &event.data, old: event.old.as_deref(), filter };
        return event.payload_of(content, cursor, tx);
    };
    let data = select.project(&event.data);
    let old = event.old.as_deref().map(|old| select.project(old));
    event.payload_of(EventContent { data: &data, old: old.as_deref(), filter }, cursor, tx)
}

/// The resync instead of an event on which a filter cannot be evaluated.
pub(in crate::hub) fn filter_resync(event: &Event) -> Event {
    Event::control(RESYNC_EVENT, FILTER_DATA, event.id)
}
