//! Rows of the event log, and the one place where they become events.

use std::collections::HashMap;
use std::sync::Arc;

use super::cursor::{CursorPrefix, Point};
use crate::org::OrgId;
use crate::wire::{Event, Topic};

/// An event with its owner; none for a control event to all.
#[derive(Debug)]
pub struct LoggedEvent {
    /// Whose.
    pub org: Option<OrgId>,
    /// The transaction that wrote it.
    pub xid: u64,
    /// What.
    pub event: Arc<Event>,
}

/// A row as queries bring it.
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
    pub(crate) at: time::OffsetDateTime,
}

/// Events of these rows, with their cursors where there is a prefix for them.
pub(crate) fn to_events(rows: Vec<LogRow>, prefix: Option<&CursorPrefix>) -> Vec<LoggedEvent> {
    let mut names = Names::default();
    rows.into_iter().filter_map(|row| names.event(row, prefix)).collect()
}

/// Makes events of rows. A batch has few names: each is allocated once.
#[derive(Default)]
pub(crate) struct Names(HashMap<String, Arc<str>>);

impl Names {
    /// None where the row is bad: it never stops delivery of another.
    pub(crate) fn event(&mut self, row: LogRow, prefix: Option<&CursorPrefix>) -> Option<LoggedEvent> {
        let Some(topic) = Topic::parse(&row.topic) else {
            tracing::warn!(event.id = row.id, topic = row.topic, "an event with an invalid topic is skipped");
            return None;
        };
        let entity_topic = row.subject.as_deref().and_then(|subject| {
            let topic = Topic::parse(subject).filter(Topic::is_entity);
            if topic.is_none() {
                tracing::warn!(event.id = row.id, subject, "event has an invalid entity topic");
            }
            topic
        });
        let name = self.0.entry(row.event).or_insert_with_key(|name| name.as_str().into());
        let event = Event {
            id: row.id,
            at: row.at,
            topic,
            entity_topic,
            name: Arc::clone(name),
            data: row.data.into(),
            old: row.old.map(Into::into),
            truncated: row.truncated,
            cursor: prefix.map(|p| p.with_id(row.id)).unwrap_or_default().into(),
        };
        Some(LoggedEvent { org: row.org_id, xid: row.xid.cast_unsigned(), event: Arc::new(event) })
    }
}

/// A point as parameters of a query: `xid8` has no binary form that sqlx knows, so it goes as text.
pub(crate) struct Since {
    pub(crate) xmax: String,
    pub(crate) in_progress: Vec<String>,
    pub(crate) max_id: i64,
}

impl Since {
    pub(crate) fn new(point: &Point) -> Self {
        Self {
            xmax: point.snapshot.xmax.to_string(),
            in_progress: point.snapshot.in_progress.iter().map(u64::to_string).collect(),
            max_id: point.max_id,
        }
    }
}
