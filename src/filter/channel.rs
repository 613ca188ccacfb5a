//! The filter and the selected columns of a subscription, for one description of its table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::column::Columns;
use super::error::FilterError;
use super::evaluate::Filter;
use super::row::Row;
use super::select::Selection;
use super::syntax::Condition;
use super::verdict::{Change, Verdict};

/// Columns of a table at one time.
#[derive(Debug)]
pub struct TableColumns {
    /// Version of the description, as `warden.reading_version()` returns it.
    pub version: String,
    /// Visible columns.
    pub columns: Columns,
    /// The columns that identify a row.
    pub key: Selection,
    /// The entity topic that events of the table reach.
    pub entity: Option<EntityTopic>,
    /// Number of [`TableChecks`] that had begun before the description was read.
    pub checks: u64,
}

/// The entity topic that events of a table reach, as `warden.reading()` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EntityTopic {
    /// Kind of the entity.
    pub kind: String,
    /// Column with the entity's id. None if events do not contain it.
    pub column: Option<String>,
}

impl PartialEq for TableColumns {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
            && self.columns == other.columns
            && self.key == other.key
            && self.entity == other.entity
    }
}

/// Counts checks for changes of tables. A description that was read before a check began may be out of date
/// after it.
#[derive(Debug, Default)]
pub struct TableChecks(AtomicU64);

impl TableChecks {
    /// Number of checks that have begun.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Counts a check that begins.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl TableColumns {
    /// The rows of an event. None if its `data` or `old` is no row.
    #[must_use]
    pub fn change<'a>(&self, data: &'a str, old: Option<&'a str>) -> Option<Change<'a>> {
        let row = Row::new(&self.columns, data)?;
        let before = match old {
            Some(old) => Some(row.before(&self.columns, old)?),
            None => None,
        };
        let entity = self.entity.as_ref().and_then(|entity| entity.column.as_deref());
        let entity = entity.and_then(|column| self.columns.position_in_rows(column));
        Some(Change { row, before, entity })
    }
}

/// Rows that a filter selects, with some of their columns.
#[derive(Debug)]
pub struct ChannelFilter {
    /// Columns for which the filter was compiled.
    pub table: Arc<TableColumns>,
    /// Selects rows.
    pub filter: Filter,
    /// Selected columns. None means all.
    pub select: Option<Selection>,
    /// Bytes of the filter as the client wrote it, and of its converted values.
    pub bytes: usize,
    /// Whether a token requires the filter. Then an event shows no values of a row that the filter does not
    /// select: neither those after an update by which the row left it, nor those before one by which the row
    /// entered it.
    pub is_signed: bool,
}

impl ChannelFilter {
    /// Compiles a filter. `converted` has the values that [`Filter::literals`] returned, in the form of
    /// events.
    ///
    /// # Errors
    /// If a column is unknown, or an operator cannot be evaluated exactly.
    pub fn compile(
        table: Arc<TableColumns>,
        conditions: &[Condition],
        converted: &[&str],
        select: Option<&[String]>,
        bytes: usize,
    ) -> Result<Self, FilterError> {
        let filter = Filter::compile(conditions, &table.columns, converted)?;
        let select = select.map(|names| Selection::new(names, &table.columns)).transpose()?;
        let bytes = bytes + converted.iter().map(|value| value.len()).sum::<usize>();
        Ok(Self { table, filter, select, bytes, is_signed: false })
    }

    /// This filter, as one that a token requires.
    #[must_use]
    pub fn signed(mut self) -> Self {
        self.is_signed = true;
        self
    }

    /// The rows that both filters select, with the columns that the client selects. On a row that the token
    /// does not select, or may not select, what the client asks for changes nothing. None if the filters were
    /// compiled for different descriptions of the table.
    #[must_use]
    pub fn both(signed: Self, asked: Self) -> Option<Self> {
        if signed.table != asked.table {
            return None;
        }
        let filter = signed.filter.and_then(&asked.filter);
        let bytes = signed.bytes + asked.bytes;
        Some(Self { table: signed.table, filter, select: asked.select, bytes, is_signed: true })
    }

    /// Whether subscribers of the two filters get the same bytes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_signed == other.is_signed
            && self.filter == other.filter
            && self.select == other.select
            && self.table == other.table
    }

    /// Meaning of an event: None if the filter selects its row neither before nor after the change. On an
    /// entity topic, a row that was about another entity before was not selected.
    #[must_use]
    pub fn verdict(&self, data: &str, old: Option<&str>, is_entity_topic: bool) -> Option<Verdict> {
        let Some(change) = self.table.change(data, old) else { return Some(Verdict::Unknown) };
        self.filter.selected(&change).on_topic(is_entity_topic, &change).verdict()
    }
}
