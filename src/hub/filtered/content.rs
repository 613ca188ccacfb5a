//! The bytes of an event for a channel with a filter.

use super::claim_filter::ClaimFilter;
use crate::filter::{ChannelFilter, Verdict};
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
pub(super) fn render(filter: &ChannelFilter, event: &Event, cursor: &str, tx: &str) -> Rendered {
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
        Some(verdict) => Rendered::Payload(payload(filter, verdict, event, cursor, tx)),
    }
}

/// Renders an event for an aggregate topic, as the filters of a token allow it.
pub(super) fn render_claim(claim: &ClaimFilter, event: &Event, cursor: &str, tx: &str) -> Rendered {
    if !claim.is_reached(event) {
        return Rendered::Nothing;
    }
    match claim.filter_of(&event.topic) {
        Some(filter) => render(filter, event, cursor, tx),
        None => Rendered::Payload(event.payload(cursor, tx)),
    }
}

/// The payload for a channel with this filter. `Unknown` has none of its own.
pub(in crate::hub) fn payload(
    filter: &ChannelFilter,
    verdict: Verdict,
    event: &Event,
    cursor: &str,
    tx: &str,
) -> String {
    let mut content = event.content();
    content.filter = match verdict {
        Verdict::Entered => Some("entered"),
        Verdict::Left => Some("left"),
        Verdict::Selected | Verdict::Unknown => None,
    };
    if filter.is_signed && verdict != Verdict::Selected {
        // The row before the update, or after it, is none that the token allows.
        content.old = None;
        if verdict != Verdict::Entered {
            let key = filter.table.key.project(&event.data);
            let content = EventContent { data: &key, truncated: false, ..content };
            return event.payload_of(content, cursor, tx);
        }
    }
    let Some(select) = &filter.select else {
        return event.payload_of(content, cursor, tx);
    };
    let data = select.project(content.data);
    let old = content.old.map(|old| select.project(old));
    event.payload_of(EventContent { data: &data, old: old.as_deref(), ..content }, cursor, tx)
}

/// The resync instead of an event on which a filter cannot be evaluated.
pub(in crate::hub) fn filter_resync(event: &Event) -> Event {
    Event::control(RESYNC_EVENT, FILTER_DATA, event.id)
}
