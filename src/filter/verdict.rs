//! The meaning of an event for the subscribers of a filter.

use super::evaluate::Filter;
use super::row::Row;

/// Meaning of an event for the subscribers of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The filter selects the row: the one before an update too.
    Selected,
    /// An update made the filter select the row.
    Entered,
    /// The filter no longer selects the row after an update.
    Left,
    /// The event lacks a column on which the result depends.
    Unknown,
}

/// The rows of one event.
#[derive(Debug)]
pub struct Change<'a> {
    /// The row after the change, or the row that was deleted.
    pub row: Row<'a>,
    /// The row before an update.
    pub before: Option<Row<'a>>,
    /// Position of the column with the id of the entity that the event is about. None if events lack it.
    pub entity: Option<usize>,
}

/// Whether a filter selects the rows of an event. None if that depends on a column that the event lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectedRows {
    before: Option<bool>,
    now: Option<bool>,
}

impl Change<'_> {
    /// Steps of patterns on both rows so far.
    pub(crate) fn pattern_steps(&self) -> usize {
        let steps = |row: &Row<'_>| row.pattern_steps().get();
        steps(&self.row) + self.before.as_ref().map_or(0, steps)
    }

    /// Whether the row before an update was about the same entity. None if the event does not show it.
    fn is_same_entity(&self) -> Option<bool> {
        let Some(before) = &self.before else { return Some(true) };
        let entity = self.entity?;
        if before.is_changed(entity) { Some(false) } else { self.row.json(entity).map(|_| true) }
    }
}

impl Filter {
    /// Whether this filter selects the rows of an event.
    #[must_use]
    pub fn selected(&self, change: &Change<'_>) -> SelectedRows {
        let [before, now] = match &change.before {
            Some(before) if self.depends_on_changes(before) => self.selects_both(before, &change.row),
            _ => [self.selects(&change.row); 2],
        };
        SelectedRows { before, now }
    }

    /// The meaning of an event for this filter. None if there is none.
    #[must_use]
    pub fn verdict(&self, change: &Change<'_>) -> Option<Verdict> {
        self.selected(change).verdict()
    }
}

impl SelectedRows {
    /// The meaning of the event. None if there is none.
    #[must_use]
    pub fn verdict(self) -> Option<Verdict> {
        match (self.before, self.now) {
            (None, _) | (_, None) => Some(Verdict::Unknown),
            (Some(true), Some(true)) => Some(Verdict::Selected),
            (Some(true), Some(false)) => Some(Verdict::Left),
            (Some(false), Some(true)) => Some(Verdict::Entered),
            (Some(false), Some(false)) => None,
        }
    }

    /// Whether the event means nothing, on any topic.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.before == Some(false) && self.now == Some(false)
    }

    /// Selected rows on a topic. If it is that of the entity that the event is about, a row that was about
    /// another entity before was not there.
    #[must_use]
    pub fn on_topic(self, is_entity_topic: bool, change: &Change<'_>) -> Self {
        if !is_entity_topic {
            return self;
        }
        let before = match (self.before, change.is_same_entity()) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (before, Some(true)) => before,
            (_, None) => None,
        };
        Self { before, ..self }
    }
}
