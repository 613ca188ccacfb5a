//! Filters whose table has changed since they were compiled.
//!
//! Their sessions are closed, and clients join again. The missed events come from the log, so nothing is
//! lost. Until a check has found the change, no event of the changed table is dispatched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{FilterChannel, FilteredTopics, Group};
use crate::filter::TableChecks;
use crate::hub::Hub;
use crate::hub::org::OrgChannel;
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
        let topics = |channel: Arc<OrgChannel>| [channel.filters.topics(), channel.claims.topics()].concat();
        channels.flat_map(topics).collect()
    }

    /// Whether a filter was compiled for another version of its topic's table than these.
    #[must_use]
    pub fn has_outdated_filters(&self, versions: &HashMap<String, Option<String>>) -> bool {
        let mut channels = self.org_ids().into_iter().filter_map(|org| self.channel(org));
        channels.any(|channel| !outdated(&channel, versions).is_empty())
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
        let outdated = channels.flat_map(|channel| outdated(&channel, versions));
        outdated.map(|channel| channel.close(close)).count()
    }
}

/// Channels of an organisation whose filters were compiled for another version of their topic's table than
/// these.
fn outdated(channel: &OrgChannel, versions: &HashMap<String, Option<String>>) -> Vec<Arc<FilterChannel>> {
    [channel.filters.outdated(versions), channel.claims.outdated(versions)].concat()
}

impl FilteredTopics {
    fn topics(&self) -> Vec<Topic> {
        if self.count() == 0 {
            return Vec::new();
        }
        lock(&self.state).topics.keys().cloned().collect()
    }

    /// Channels whose filters were compiled for another version of their topic's table than these.
    pub(super) fn outdated(&self, versions: &HashMap<String, Option<String>>) -> Vec<Arc<FilterChannel>> {
        let mut channels = Vec::new();
        if self.count() > 0 {
            for (topic, groups) in &lock(&self.state).topics {
                let Some(version) = versions.get(topic.as_str()) else { continue };
                let outdated = groups.iter().filter(|group| version.as_ref() != Some(&group.table.version));
                channels.extend(outdated.flat_map(Group::all).map(Arc::clone));
            }
        }
        channels
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
