//! A session's use of a channel with a filter.

use std::sync::Arc;

use super::content::{Rendered, render, render_claim};
use super::rows::{ChannelRows, ClaimFilter};
use super::{FilterChannel, FilterLimit, FilterShares, FilteredTopics};
use crate::filter::ChannelFilter;
use crate::hub::Registration;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{Event, Topic};

/// A session's use of a channel with a filter. The channel ends with its last handle.
#[derive(Debug)]
pub struct FilterHandle {
    topics: Arc<FilteredTopics>,
    pub(in crate::hub) channel: Arc<FilterChannel>,
    metrics: Arc<Metrics>,
}

impl Registration {
    /// Finds or creates the channel of a filter on a topic.
    ///
    /// # Errors
    /// If the organisation has too many filters, or the filter must be compiled again.
    pub fn open_filter(
        &self,
        topic: &Topic,
        filter: ChannelFilter,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<FilterHandle>, FilterLimit> {
        self.open_channel(topic, ChannelRows::Table(Arc::new(filter)), metrics)
    }

    /// Finds or creates the channel of an aggregate topic for the filters of a token.
    ///
    /// # Errors
    /// As [`Self::open_filter`].
    pub fn open_claim(
        &self,
        topic: &Topic,
        claim: ClaimFilter,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<FilterHandle>, FilterLimit> {
        self.open_channel(topic, ChannelRows::Claim(claim), metrics)
    }

    fn open_channel(
        &self,
        topic: &Topic,
        rows: ChannelRows,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<FilterHandle>, FilterLimit> {
        FilterHandle::open(&self.channel.filters, self.org, topic, rows, &self.hub.filter_shares, metrics)
    }
}

impl FilterHandle {
    pub(super) fn open(
        topics: &Arc<FilteredTopics>,
        org: OrgId,
        topic: &Topic,
        rows: ChannelRows,
        node: &FilterShares,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, FilterLimit> {
        let opened = topics.open(org, topic, rows, node, metrics);
        let channel = opened.inspect_err(|limit| limit.count(metrics))?;
        Ok(Arc::new(Self { topics: Arc::clone(topics), channel, metrics: Arc::clone(metrics) }))
    }

    /// Renders an event for the channel. `position` returns the event's sealed cursor and transaction. It is
    /// called only if there is a payload.
    #[must_use]
    pub fn render<'t>(&self, event: &Event, position: impl FnOnce() -> (String, &'t str)) -> Rendered {
        let topic = &self.channel.topic;
        match &*self.channel.rows {
            ChannelRows::Table(filter) => render(filter, topic, event, position),
            ChannelRows::Claim(claim) => render_claim(claim, topic, event, position),
        }
    }
}

impl Drop for FilterHandle {
    fn drop(&mut self) {
        self.topics.close(&self.channel, &self.metrics);
    }
}
