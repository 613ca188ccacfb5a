//! Rows of the event log, and the one place where they become events.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

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
pub(super) struct LogRow {
    pub(super) id: i64,
    pub(super) xid: i64,
    pub(super) org_id: Option<OrgId>,
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) subject: Option<Uuid>,
    pub(super) data: String,
    pub(super) old: Option<String>,
    pub(super) truncated: bool,
    pub(super) at: time::OffsetDateTime,
}

/// Events of these rows, with their cursors where there is a prefix for them.
pub(super) fn to_events(rows: Vec<LogRow>, prefix: Option<&CursorPrefix>) -> Vec<LoggedEvent> {
    let mut names = Names::default();
    rows.into_iter().filter_map(|row| names.event(row, prefix)).collect()
}

/// Makes events of rows. A batch has few names: each is allocated once.
#[derive(Default)]
pub(super) struct Names(HashMap<String, Arc<str>>);

impl Names {
    /// None where the row is bad: it never stops delivery of another.
    pub(super) fn event(&mut self, row: LogRow, prefix: Option<&CursorPrefix>) -> Option<LoggedEvent> {
        let Some(topic) = Topic::parse(&row.topic) else {
            tracing::warn!(event.id = row.id, topic = row.topic, "an event with an invalid topic is skipped");
            return None;
        };
        let name = self.0.entry(row.event).or_insert_with_key(|name| name.as_str().into());
        let event = Event {
            id: row.id,
            at: row.at,
            topic,
            call: row.subject,
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
pub(super) struct Since {
    pub(super) xmax: String,
    pub(super) in_progress: Vec<String>,
    pub(super) max_id: i64,
}

impl Since {
    pub(super) fn new(point: &Point) -> Self {
        Self {
            xmax: point.snapshot.xmax.to_string(),
            in_progress: point.snapshot.in_progress.iter().map(u64::to_string).collect(),
            max_id: point.max_id,
        }
    }
}
