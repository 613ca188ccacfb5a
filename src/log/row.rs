//! Rows of the event log, and the only place that turns them into events.

use std::collections::HashMap;
use std::num::NonZeroI64;
use std::sync::Arc;

use crate::cursor::Point;
use crate::org::OrgId;
use crate::wire::{Event, Topic};

/// An event of the log with its organisation.
#[derive(Debug)]
pub struct LoggedEvent {
    /// The organisation of the event; none for a control event to all organisations.
    pub org: Option<OrgId>,
    /// The event itself.
    pub event: Arc<Event>,
}

/// A row of `warden.events` as a query returns it.
pub(crate) struct LogRow {
    pub(crate) id: i64,
    pub(crate) xid: i64,
    pub(crate) org_id: Option<OrgId>,
    pub(crate) topic: String,
    pub(crate) event: String,
    /// The entity topic that the event also reaches.
    pub(crate) subject: Option<String>,
    pub(crate) data: String,
    pub(crate) old: Option<String>,
    pub(crate) truncated: bool,
    pub(crate) needs_claim: bool,
    pub(crate) at: time::OffsetDateTime,
    pub(crate) traceparent: Option<String>,
    /// The watch that logged the row.
    pub(crate) watch: Option<i64>,
}

/// Turns rows into events. The rows of a batch have few distinct event names, so each name is allocated once.
#[derive(Default)]
pub(crate) struct RowDecoder {
    names: HashMap<String, Arc<str>>,
}

impl RowDecoder {
    /// Decodes rows, and skips the invalid ones.
    pub(crate) fn decode_all(rows: Vec<LogRow>) -> Vec<LoggedEvent> {
        let mut decoder = Self::default();
        rows.into_iter().filter_map(|row| decoder.decode(row)).collect()
    }

    /// Decodes a row. Returns none for an invalid row, because one bad row must not stop the delivery of
    /// others.
    pub(crate) fn decode(&mut self, row: LogRow) -> Option<LoggedEvent> {
        let Some(topic) = Topic::parse(&row.topic) else {
            tracing::warn!(event.id = row.id, topic = row.topic, "event skipped: its topic is invalid");
            return None;
        };
        let entity_topic = row.subject.as_deref().and_then(|subject| {
            let topic = Topic::parse(subject).filter(Topic::is_entity);
            if topic.is_none() {
                tracing::warn!(event.id = row.id, subject, "event has an invalid entity topic");
            }
            topic
        });
        let name = self.names.entry(row.event).or_insert_with_key(|name| name.as_str().into());
        let event = Event {
            id: row.id,
            xid: row.xid.cast_unsigned(),
            at: row.at,
            topic,
            entity_topic,
            name: Arc::clone(name),
            data: row.data.into(),
            old: row.old.map(Into::into),
            truncated: row.truncated,
            needs_claim: row.needs_claim,
            traceparent: row.traceparent.map(Into::into),
            watch: row.watch.and_then(NonZeroI64::new),
        };
        Some(LoggedEvent { org: row.org_id, event: Arc::new(event) })
    }
}

/// A point as query parameters. sqlx knows no binary form of `xid8`, so transaction ids are passed as text.
pub(crate) struct PointParameters {
    pub(crate) xmax: String,
    pub(crate) in_progress: Vec<String>,
    pub(crate) max_id: i64,
}

impl PointParameters {
    pub(crate) fn new(point: &Point) -> Self {
        Self {
            xmax: point.snapshot.xmax.to_string(),
            in_progress: point.snapshot.in_progress.iter().map(u64::to_string).collect(),
            max_id: point.max_id,
        }
    }
}
