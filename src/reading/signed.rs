//! Filters that a token requires: compiled for joins, alone or with what the join asks for.
//!
//! A filter that does not fit the table rejects the request. Nothing is read or sent without it.

use std::sync::Arc;

use super::error::{QueryError, ReadError};
use super::filter::FilterRequest;
use super::{Caller, Reader};
use crate::filter::{ChannelFilter, Condition};

/// The filter of a join, with the conditions for the pages of a snapshot.
#[derive(Debug)]
pub struct CompiledFilter {
    /// Filter of events.
    pub filter: ChannelFilter,
    /// Conditions of pages.
    pub conditions: JoinConditions,
}

/// Conditions of a join. They select the same rows at any time.
#[derive(Debug, Default)]
pub struct JoinConditions {
    /// Conditions that the token requires.
    pub signed: Vec<Condition>,
    /// Conditions that the client asks for.
    pub asked: Vec<Condition>,
}

impl FilterRequest {
    /// Columns that the client selects.
    #[must_use]
    pub fn select(&self) -> Option<&[String]> {
        self.select.as_deref()
    }

    /// A filter that a token requires. `bytes` are those of the filter and of its values.
    #[must_use]
    pub fn signed(conditions: &[Condition], bytes: usize) -> Self {
        Self { conditions: conditions.to_vec(), select: None, bytes }
    }
}

impl Reader {
    /// Compiles what a token requires and what a join asks for, of which one is present.
    ///
    /// # Errors
    /// If a filter cannot be evaluated on events, or the database fails.
    pub async fn compile_both(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        signed: Option<&FilterRequest>,
        asked: Option<&FilterRequest>,
    ) -> Result<CompiledFilter, ReadError> {
        let signed = match signed {
            Some(signed) => Some(self.compile_signed(caller.clone(), topic, signed).await?),
            None => None,
        };
        let asked = match asked {
            Some(asked) => Some(self.compile(caller, topic, asked).await?),
            None => None,
        };
        match (signed, asked) {
            (Some(signed), None) => Ok(signed),
            (Some(CompiledFilter { filter, mut conditions }), Some((asked, of_asked))) => {
                asked.table.columns.expect_stored(&of_asked).map_err(QueryError::from)?;
                conditions.asked = of_asked;
                // The columns have changed in between.
                let filter = ChannelFilter::both(filter, asked).ok_or(ReadError::Busy)?;
                Ok(CompiledFilter { filter, conditions })
            }
            (None, Some((filter, asked))) => {
                Ok(CompiledFilter { filter, conditions: JoinConditions { signed: Vec::new(), asked } })
            }
            (None, None) => Err(ReadError::UnknownTopic),
        }
    }

    /// Compiles what a token requires.
    ///
    /// # Errors
    /// As [`Self::compile_both`].
    pub async fn compile_signed(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        signed: &FilterRequest,
    ) -> Result<CompiledFilter, ReadError> {
        let compiled = self.compile(caller, topic, signed).await.and_then(|(filter, conditions)| {
            filter.table.columns.expect_stored(&conditions).map_err(QueryError::from)?;
            Ok((filter, conditions))
        });
        let (filter, signed) = compiled.map_err(|error| error.of_signed(topic))?;
        let conditions = JoinConditions { signed, asked: Vec::new() };
        Ok(CompiledFilter { filter: filter.signed(), conditions })
    }
}
