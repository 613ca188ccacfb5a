//! Filters whose table has changed since they were compiled.
//!
//! Their sessions are closed, and clients join again. The missed events come from the log, so nothing is
//! lost. Until a check has found the change, no event of the changed table is dispatched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::topic_filters::Group;
use super::{FilterChannel, FilteredTopics};
use crate::filter::TableChecks;
use crate::hub::Hub;
use crate::sync::lock;
use crate::wire::{CloseCode, Topic};

impl Hub {
    /// Checks for changes of tables. A filter whose table was described before the last one began gets no
    /// channel.
    #[must_use]
    pub fn table_checks(&self) -> &Arc<TableChecks> {
        &self.filter_shares.table_checks
    }

    /// Topics that have a channel with a filter.
    #[must_use]
    pub fn filtered_topics(&self) -> HashSet<Topic> {
        let channels = self.org_ids().into_iter().filter_map(|org| self.channel(org));
        channels.flat_map(|channel| channel.filters.topics()).collect()
    }

    /// Whether a filter was compiled for another version of its topic's table than these.
    #[must_use]
    pub fn has_outdated_filters(&self, versions: &HashMap<String, Option<String>>) -> bool {
        let mut channels = self.org_ids().into_iter().filter_map(|org| self.channel(org));
        channels.any(|channel| !channel.filters.outdated(versions).is_empty())
    }

    /// Closes the sessions whose filters were compiled for another version of their topic's table than these,
    /// and returns the number of their channels. They receive no further event. Other topics are not
    /// concerned.
    pub fn close_outdated_filters(
        &self,
        versions: &HashMap<String, Option<String>>,
        close: CloseCode,
    ) -> usize {
        let channels = self.org_ids().into_iter().filter_map(|org| self.channel(org));
        let outdated = channels.flat_map(|channel| channel.filters.outdated(versions));
        outdated.map(|channel| channel.close(close)).count()
    }
}

impl FilteredTopics {
    /// Topics whose events have filters.
    fn topics(&self) -> Vec<Topic> {
        if self.count() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let filtered = state.filters().filter(|(_, filters)| !filters.groups().is_empty());
        filtered.map(|(topic, _)| topic.clone()).collect()
    }

    /// Channels with a filter that was compiled for another version of its topic's table than these, each
    /// once.
    pub(super) fn outdated(&self, versions: &HashMap<String, Option<String>>) -> Vec<Arc<FilterChannel>> {
        let mut channels = HashMap::new();
        if self.count() > 0 {
            for (topic, filters) in lock(&self.state).filters() {
                let Some(version) = versions.get(topic.as_str()) else { continue };
                let is_outdated = |group: &&Group| version.as_ref() != Some(&group.table.version);
                let outdated = filters.groups().iter().filter(is_outdated).flat_map(Group::all);
                channels.extend(outdated.map(|channel| (channel.id, Arc::clone(channel))));
            }
        }
        channels.into_values().collect()
    }
}

impl FilterChannel {
    /// Closes the sessions of all subscriptions, and of later ones.
    pub(super) fn close(&self, close: CloseCode) {
        let places = lock(&self.places);
        self.is_outdated.store(true, Ordering::Release);
        for segment in places.segments() {
            for subscription in lock(&segment).iter() {
                subscription.outbox.close(close);
            }
        }
    }

    /// Whether the table has changed since the filter was compiled. Exact while `places` is locked.
    pub(in crate::hub) fn is_outdated(&self) -> bool {
        self.is_outdated.load(Ordering::Acquire)
    }
}
