//! Channels with a filter: the subscribers of a topic whose joins asked for the same rows and columns.
//!
//! Each event is compared with all filters of its topic at once, through a
//! [`FilterIndex`](crate::filter::FilterIndex). Subscribers with equal filters share a channel, so they share
//! the encoding too. An organisation without filters pays for one atomic load per batch.

mod candidates;
mod content;
mod handle;
mod outdated;
mod rows;
#[cfg(test)]
mod tests;
mod topic_filters;
mod topics;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub(super) use candidates::{Candidates, Selected};
pub use content::Rendered;
pub(super) use content::{filter_resync, payload};
pub use handle::FilterHandle;
pub use rows::ClaimFilter;
use rows::{ChannelRows, Part};
pub(super) use topics::FilteredTopics;

use super::segments::{Segment, TopicChannel};
use crate::capacity::Capacity;
use crate::filter::TableChecks;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::Topic;

/// Channels with a filter of one organisation on a node.
pub(crate) const ORG_FILTERS_MAX: usize = 20_000;

/// Filters of one organisation that are evaluated for most events of their topic. A filter counts once for
/// each topic of events, on however many topics it is joined.
pub(crate) const ORG_SCANNED_FILTERS_MAX: usize = 1000;

/// Conditions that one event is compared with. A filter that would exceed it gets no channel. If a row lacks
/// a column and so finds more filters, the rest of them is not evaluated, and resyncs.
pub(crate) const EVENT_EVALUATIONS_MAX: usize = 32_768;

/// Filters that one value of a column may find. Further ones count as evaluated for most events.
pub(crate) const FILTERS_PER_VALUE_MAX: usize = 100;

/// Estimated memory of all filters of a node. An organisation leaves free at least as much as it takes.
pub(crate) const FILTER_MEMORY_MAX: usize = 48 * 1024 * 1024;

/// Estimated memory of a channel beside its filter.
const CHANNEL_BYTES: usize = 1024;

/// Estimated memory of a filter, for each byte that the client wrote.
const MEMORY_PER_BYTE: usize = 8;

/// Number of a channel, which is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChannelId(u64);

/// The subscribers that get the same bytes of a topic.
#[derive(Debug)]
pub(super) struct FilterChannel {
    pub(super) id: ChannelId,
    /// The topic that they have joined.
    pub(super) topic: Topic,
    rows: Arc<ChannelRows>,
    /// Whether a filter of the channel counts as evaluated for most events.
    is_costly: bool,
    /// Whether the table has changed since the filter was compiled. It is set while `places` is locked, and
    /// the sessions of all subscriptions are closed with it.
    is_outdated: AtomicBool,
    pub(super) places: Mutex<TopicChannel>,
}

/// A limit that a filter exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimit {
    /// Name in errors and metrics.
    pub name: &'static str,
    /// Meaning for people.
    pub hint: &'static str,
}

/// State that the filters of all organisations of a node share.
#[derive(Debug)]
pub(super) struct FilterShares {
    /// Estimated memory.
    memory: Arc<Capacity<OrgId>>,
    /// Checks for changes of tables.
    pub(super) table_checks: Arc<TableChecks>,
}

impl FilterChannel {
    /// The segments that the channel has now.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        lock(&self.places).segments()
    }
}

impl FilterLimit {
    fn count(&self, metrics: &Metrics) {
        if *self != Self::OUTDATED {
            metrics.limit_reached(self.name);
        }
    }

    /// No limit: the filter must be compiled again.
    pub const OUTDATED: Self = Self {
        name: "table_changed",
        hint: "the table of this topic is being changed: join again in a moment",
    };
    /// Limit of channels, or of their memory.
    const FILTERS: Self = Self {
        name: "filters_per_org",
        hint: "your organisation has too many different filters on this gateway: join with filters that others use \
               too, or without one",
    };
    /// Limit of filters that are evaluated for most events.
    const SCANNED: Self = Self {
        name: "scanned_filters_per_org",
        hint: "your organisation has too many different filters on this gateway that most events must be compared \
               with: add a condition with eq or in that few rows fulfil",
    };
}

impl Default for FilterShares {
    fn default() -> Self {
        Self { memory: Capacity::new(FILTER_MEMORY_MAX), table_checks: Arc::default() }
    }
}
