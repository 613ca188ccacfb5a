//! The row of an event, of which only the columns that filters name are decoded.

use std::borrow::Cow;
use std::cell::{Cell as Counter, OnceCell};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::column::Columns;
use super::column_set::ColumnSet;
use super::value::{Cell, ExactType, string};

/// Columns of one row, by their position in the table's description.
#[derive(Debug)]
pub struct Row<'a> {
    cells: Vec<Content<'a>>,
    /// Whether each column was changed by the update. Empty, except for the row before one.
    changed: Vec<bool>,
    /// The changed columns.
    changed_columns: ColumnSet,
    /// Steps of patterns so far.
    pattern_steps: Counter<usize>,
}

/// JSON of a column, which is decoded when a filter first needs it.
#[derive(Debug, Default)]
struct Content<'a> {
    json: Option<&'a str>,
    cell: OnceCell<Cell<'a>>,
}

impl<'a> Row<'a> {
    /// Reads the row after a change, or the row of a deletion, from the event's `data`. None if it is no
    /// object.
    #[must_use]
    pub fn new(columns: &Columns, data: &'a str) -> Option<Self> {
        let mut cells = Vec::new();
        cells.resize_with(columns.count(), Content::default);
        let mut row = Self::of(cells, Vec::new());
        row.read(columns, data).then_some(row)
    }

    /// The row before an update: `old` has the former values of the columns that the update changed.
    #[must_use]
    pub fn before(&self, columns: &Columns, old: &'a str) -> Option<Self> {
        let json = self.cells.iter().map(|content| Content { json: content.json, cell: OnceCell::new() });
        let changed = vec![false; self.cells.len()];
        let mut row = Self::of(json.collect(), changed);
        row.read(columns, old).then_some(row)
    }

    fn of(cells: Vec<Content<'a>>, changed: Vec<bool>) -> Self {
        let (changed_columns, pattern_steps) = (ColumnSet::default(), Counter::default());
        Self { cells, changed, changed_columns, pattern_steps }
    }

    fn read(&mut self, columns: &Columns, json: &'a str) -> bool {
        let fields = Fields { row: self, columns };
        serde_json::Deserializer::from_str(json).deserialize_map(fields).is_ok()
    }

    /// The content of a column.
    pub(super) fn cell(&self, column: usize, kind: ExactType) -> &Cell<'a> {
        const MISSING: &Cell<'static> = &Cell::Missing;
        let Some(content) = self.cells.get(column) else { return MISSING };
        content.cell.get_or_init(|| content.json.map_or(Cell::Missing, |json| kind.decode(json)))
    }

    /// Steps of patterns so far.
    pub(super) fn pattern_steps(&self) -> &Counter<usize> {
        &self.pattern_steps
    }

    /// Whether the update after this row changed a column.
    pub(super) fn is_changed(&self, column: usize) -> bool {
        self.changed.get(column).copied().unwrap_or_default()
    }

    /// The columns that the update after this row changed.
    pub(super) fn changed_columns(&self) -> ColumnSet {
        self.changed_columns
    }

    /// The JSON of a column. None if the event does not contain it.
    pub(super) fn json(&self, column: usize) -> Option<&'a str> {
        self.cells.get(column)?.json
    }
}

/// Stores the JSON of those columns that the table has.
struct Fields<'r, 'a> {
    row: &'r mut Row<'a>,
    columns: &'r Columns,
}

/// A name, which is borrowed if it contains no escape, and its JSON.
pub(super) struct Name<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) json: &'a str,
}

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &'de RawValue = serde::Deserialize::deserialize(deserializer)?;
        let text = string(raw.get()).ok_or_else(|| serde::de::Error::custom("a name is no string"))?;
        Ok(Self { text, json: raw.get() })
    }
}

impl<'a> Visitor<'a> for Fields<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<Name<'a>, &'a RawValue>()? {
            if let Some(position) = self.columns.position_in_rows(&name.text) {
                // The null of a column that cannot be null stands for a value too large for the event.
                let is_known = value.get() != "null" || self.columns.may_be_null(position);
                let json = is_known.then(|| value.get());
                self.row.cells[position] = Content { json, cell: OnceCell::new() };
                if let Some(is_changed) = self.row.changed.get_mut(position) {
                    *is_changed = true;
                    self.row.changed_columns.insert(position);
                }
            }
        }
        Ok(())
    }
}
