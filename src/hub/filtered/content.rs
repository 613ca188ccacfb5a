//! The bytes of an event for a channel with a filter.

use super::rows::ClaimFilter;
use crate::filter::{ChannelFilter, Verdict};
use crate::wire::{Event, EventContent, RESYNC_EVENT, Topic};

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

/// Renders an event for a channel with a filter, on its topic. `position` returns the event's sealed cursor
/// and transaction. It is called only if there is a payload.
#[must_use]
pub(super) fn render<'t>(
    filter: &ChannelFilter,
    topic: &Topic,
    event: &Event,
    position: impl FnOnce() -> (String, &'t str),
) -> Rendered {
    if event.is_control() {
        return whole(event, position);
    }
    match event.watch {
        // A published event is no row.
        None => return Rendered::Nothing,
        Some(Event::UNKNOWN_WATCH) => return Rendered::Unknown,
        Some(_) => {}
    }
    match filter.verdict(&event.data, event.old.as_deref(), topic.is_entity()) {
        None => Rendered::Nothing,
        Some(Verdict::Unknown) => Rendered::Unknown,
        Some(verdict) => {
            let (cursor, tx) = position();
            Rendered::Payload(payload(filter, verdict, event, &cursor, tx))
        }
    }
}

/// An event as it was logged.
fn whole<'t>(event: &Event, position: impl FnOnce() -> (String, &'t str)) -> Rendered {
    let (cursor, tx) = position();
    Rendered::Payload(event.payload(&cursor, tx))
}

/// Renders an event for an aggregate topic, as the filters of a token allow it. `position` is as for
/// [`render`].
pub(super) fn render_claim<'t>(
    claim: &ClaimFilter,
    topic: &Topic,
    event: &Event,
    position: impl FnOnce() -> (String, &'t str),
) -> Rendered {
    if !claim.is_reached(event) {
        return Rendered::Nothing;
    }
    match claim.filter_of(&event.topic) {
        Some(filter) => render(filter, topic, event, position),
        None => whole(event, position),
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
