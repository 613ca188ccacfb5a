//! Keys by which an index finds a filter: a row must have one of them, so that the filter can select it.

use std::collections::HashSet;

use super::column_condition::{ColumnCondition, Ordered, ValueTest};
use super::evaluate::{Filter, Node};
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// A column on which a condition depends, and how it is decoded. A condition on null needs no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leaf(usize, Option<ExactType>);

impl Leaf {
    /// Whether the result of a condition on this column is unknown.
    pub(super) fn is_missing(self, row: &Row<'_>) -> bool {
        let Self(column, kind) = self;
        kind.map_or_else(
            || row.json(column).is_none(),
            |kind| matches!(row.cell(column, kind), Cell::Missing),
        )
    }
}

/// Columns of the first of several parts, each once.
pub(super) fn first_part(filter: &Filter) -> HashSet<Leaf> {
    let mut leaves = HashSet::new();
    if let [first, _, ..] = &*filter.parts {
        add_leaves(first, &mut leaves);
    }
    leaves
}

fn add_leaves(node: &Node, leaves: &mut HashSet<Leaf>) {
    match node {
        Node::Column(condition) => {
            leaves.insert(Leaf(condition.column, condition.kind()));
        }
        Node::Not(inner) => add_leaves(inner, leaves),
        Node::All(members) | Node::Any(members) => {
            members.iter().for_each(|member| add_leaves(member, leaves));
        }
    }
}

/// Values of a column, of which a row may have one.
pub(super) type Key<'a> = (usize, ExactType, &'a [Value<'static>]);

/// Keys of which a row must have one, so that the filter can select it, or so that the result of its first
/// part is unknown although the row has all columns. None if there are none.
pub(super) fn filter_keys(filter: &Filter) -> Option<Vec<Key<'_>>> {
    let mut parts = &*filter.parts;
    // The patterns of one row may be too expensive, and then the result is unknown.
    if let [first, _, ..] = parts
        && first.has_pattern()
    {
        parts = std::slice::from_ref(first);
    }
    fewest(parts.iter().filter_map(keys))
}

/// The keys with the fewest values.
fn fewest<'n>(all: impl Iterator<Item = Vec<Key<'n>>>) -> Option<Vec<Key<'n>>> {
    all.min_by_key(|keys| keys.iter().map(|(_, _, values)| values.len()).sum::<usize>())
}

/// Keys of which a row must have one, so that the condition can select it. None if it can select other rows
/// too.
fn keys(node: &Node) -> Option<Vec<Key<'_>>> {
    match node {
        Node::Column(ColumnCondition { column, test }) => match test {
            ValueTest::Compare { kind, test: Ordered::Equal, value } => {
                Some(vec![(*column, *kind, std::slice::from_ref(value))])
            }
            ValueTest::In { kind, values } => Some(vec![(*column, *kind, values)]),
            _ => None,
        },
        Node::All(members) => fewest(members.iter().filter_map(keys)),
        Node::Any(members) => {
            let each: Option<Vec<_>> = members.iter().map(keys).collect();
            each.map(|each| each.into_iter().flatten().collect())
        }
        Node::Not(_) => None,
    }
}
