//! A session's use of a channel with a filter.

use std::sync::Arc;

use super::claim_filter::ClaimFilter;
use super::claims::ClaimChannels;
use super::content::{Rendered, render, render_claim};
use super::{ChannelRows, FilterChannel, FilterLimit, FilterShares, FilteredTopics};
use crate::filter::{ChannelFilter, FilterId};
use crate::hub::Registration;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{Event, Topic};

/// A session's use of a channel with a filter. The channel ends with its last handle.
#[derive(Debug)]
pub struct FilterHandle {
    place: ChannelPlace,
    pub(in crate::hub) channel: Arc<FilterChannel>,
    metrics: Arc<Metrics>,
}

/// Place of a channel.
#[derive(Debug)]
enum ChannelPlace {
    Table(Arc<FilteredTopics>, FilterId),
    Claim(Arc<ClaimChannels>),
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
        FilterHandle::open(&self.channel.filters, self.org, topic, filter, &self.hub.filter_shares, metrics)
    }

    /// Finds or creates the channel of an aggregate topic for the filters of a token.
    ///
    /// # Errors
    /// If the organisation has too many filters.
    pub fn open_claim(
        &self,
        topic: &Topic,
        claim: ClaimFilter,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<FilterHandle>, FilterLimit> {
        let (channels, node) = (&self.channel.claims, &self.hub.filter_shares);
        FilterHandle::open_claim(channels, self.org, topic, claim, node, metrics)
    }
}

impl FilterHandle {
    pub(super) fn open(
        topics: &Arc<FilteredTopics>,
        org: OrgId,
        topic: &Topic,
        filter: ChannelFilter,
        node: &FilterShares,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, FilterLimit> {
        let opened = topics.open(org, topic, filter, node, metrics);
        let (channel, id) = opened.inspect_err(|limit| limit.count(metrics))?;
        let place = ChannelPlace::Table(Arc::clone(topics), id);
        Ok(Arc::new(Self { place, channel, metrics: Arc::clone(metrics) }))
    }

    fn open_claim(
        channels: &Arc<ClaimChannels>,
        org: OrgId,
        topic: &Topic,
        claim: ClaimFilter,
        node: &FilterShares,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, FilterLimit> {
        let opened = channels.open(org, topic, claim, node, metrics);
        let channel = opened.inspect_err(|limit| limit.count(metrics))?;
        let place = ChannelPlace::Claim(Arc::clone(channels));
        Ok(Arc::new(Self { place, channel, metrics: Arc::clone(metrics) }))
    }

    /// Renders an event for the channel.
    #[must_use]
    pub fn render(&self, event: &Event, cursor: &str, tx: &str) -> Rendered {
        match &self.channel.rows {
            ChannelRows::Table(filter) => render(filter, event, cursor, tx),
            ChannelRows::Claim(claim) => render_claim(claim, event, cursor, tx),
        }
    }
}

impl Drop for FilterHandle {
    fn drop(&mut self) {
        match (&self.place, &self.channel.rows) {
            (ChannelPlace::Table(topics, id), _) => topics.close(&self.channel, *id, &self.metrics),
            (ChannelPlace::Claim(channels), ChannelRows::Claim(claim)) => {
                channels.close(&self.channel, claim, &self.metrics);
            }
            (ChannelPlace::Claim(_), ChannelRows::Table(_)) => {}
        }
    }
}
