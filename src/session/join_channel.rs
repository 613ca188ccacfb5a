//! The channel of a join with a filter: what the client asks for, and what its token allows.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::pending_join::{JoinFilters, NoChannel, PendingJoin};
use crate::auth::{FilterClaim, SignedFilter, SignedRows, TopicRule};
use crate::filter::{ChannelFilter, Condition};
use crate::hub::{ClaimFilter, FilterLimit};
use crate::metrics::RejectionLabels;
use crate::reading::{CompiledFilter, FilterRequest, JoinConditions, ReadError};

/// Compilations of a filter while its table may be changing.
const COMPILATIONS_MAX: usize = 5;
/// Bytes of a digest.
const DIGEST_BYTES: usize = 12;

/// Identifies the rows and columns that a join gets, so that a client which resumes notices another filter.
/// Filters that are only spelled in another way may have another digest, and so resync for nothing.
fn digest(topics: &[(&str, &[Condition])], select: Option<&[String]>) -> String {
    let hash = Sha256::digest(format!("{topics:?}{select:?}"));
    URL_SAFE_NO_PAD.encode(&hash[..DIGEST_BYTES])
}

impl PendingJoin {
    /// Finds the channel of the filters. Returns the conditions for the pages of a snapshot.
    pub(super) async fn open_channel(&mut self, filters: &JoinFilters) -> Result<JoinConditions, NoChannel> {
        let opened = match &filters.rule {
            TopicRule::Aggregate(claim) => self.open_claim(claim).await.map(|()| JoinConditions::default()),
            TopicRule::Nothing => Err(NoChannel {
                code: "forbidden topic",
                hint: format!("the token's app_metadata.warden_filters do not name {}", self.topic_name),
                is_final: true,
            }),
            TopicRule::Whole if filters.asked.is_none() => Ok(JoinConditions::default()),
            TopicRule::Whole => self.open_filter(None, filters).await,
            TopicRule::Rows(rows) => self.open_filter(Some(rows), filters).await,
        };
        opened.inspect_err(|error| {
            let labels = RejectionLabels { code: error.code };
            self.context.metrics.filters_rejected.get_or_create(&labels).inc();
        })
    }

    async fn open_filter(
        &mut self,
        signed: Option<&SignedRows>,
        filters: &JoinFilters,
    ) -> Result<JoinConditions, NoChannel> {
        let signed = signed.map(|rows| FilterRequest::signed(&rows.conditions, rows.bytes));
        let asked = filters.asked.as_deref();
        for attempt in 1.. {
            let (reader, caller) = (&self.context.reader, self.caller());
            let compiled = reader.compile_both(caller, &self.topic_name, signed.as_ref(), asked).await?;
            let CompiledFilter { filter, conditions } = compiled;
            match self.registration.open_filter(&self.topic, filter, &self.context.metrics) {
                Ok(handle) => {
                    let select = asked.and_then(FilterRequest::select);
                    let both = [(&*self.topic_name, &*conditions.signed), ("", &*conditions.asked)];
                    self.digest = Some(digest(&both, select));
                    self.filter = Some(handle);
                    return Ok(conditions);
                }
                // A check of tables has begun meanwhile.
                Err(FilterLimit::OUTDATED) if attempt < COMPILATIONS_MAX => {}
                Err(limit) => return Err(limit.into()),
            }
        }
        Err(FilterLimit::OUTDATED.into())
    }

    async fn open_claim(&mut self, claim: &FilterClaim) -> Result<(), NoChannel> {
        for attempt in 1.. {
            let (compiled, digest) = self.compile_claim(claim).await?;
            match self.registration.open_claim(&self.topic, compiled, &self.context.metrics) {
                Ok(handle) => {
                    (self.filter, self.digest) = (Some(handle), Some(digest));
                    return Ok(());
                }
                Err(FilterLimit::OUTDATED) if attempt < COMPILATIONS_MAX => {}
                Err(limit) => return Err(limit.into()),
            }
        }
        Err(FilterLimit::OUTDATED.into())
    }

    /// Compiles the filters of all topics that the token names. Also returns their digest.
    async fn compile_claim(&self, claim: &FilterClaim) -> Result<(ClaimFilter, String), NoChannel> {
        let (mut topics, mut digested) = (BTreeMap::new(), Vec::new());
        for (topic, filter) in claim.topics() {
            let (filter, conditions) = match filter {
                SignedFilter::All => (None, Vec::new()),
                SignedFilter::Rows(rows) => {
                    let signed = FilterRequest::signed(&rows.conditions, rows.bytes);
                    let compiled = self.context.reader.compile_signed(self.caller(), topic, &signed).await?;
                    self.check_entity_column(topic, &compiled.filter)?;
                    (Some(Arc::new(compiled.filter)), compiled.conditions.signed)
                }
            };
            topics.insert(Arc::clone(topic), filter);
            digested.push((&**topic, conditions));
        }
        let digested: Vec<(&str, &[Condition])> =
            digested.iter().map(|(topic, conditions)| (*topic, &conditions[..])).collect();
        Ok((ClaimFilter::new(topics), digest(&digested, None)))
    }

    /// Checks that events of a table show whether a row was about the entity of this topic before.
    fn check_entity_column(&self, topic: &str, filter: &ChannelFilter) -> Result<(), ReadError> {
        match (self.topic.entity(), &filter.table.entity) {
            (Some((kind, _)), Some(entity)) if entity.kind == kind && entity.column.is_none() => {
                let reason = format!(
                    "its events omit the column with the {kind}, so an update does not show whether the row was \
                     about another {kind} before: remove that column from omit_columns of warden.watch()"
                );
                Err(ReadError::FilterNotApplicable { topic: topic.to_owned(), reason })
            }
            _ => Ok(()),
        }
    }
}
