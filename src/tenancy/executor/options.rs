//! Options of an adoption run.

use std::time::Duration;

use crate::postgres::SchemaSet;
use crate::tenancy::preflight::Choices;

/// Default of [`AdoptionOptions::lock_timeout`].
pub const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_millis(200);
/// Default of [`AdoptionOptions::batch_rows`].
pub const BATCH_ROWS_DEFAULT: u32 = 5_000;

/// Options of a run.
#[derive(Debug, Clone)]
pub struct AdoptionOptions {
    /// The SQL migrations to apply.
    pub schema: SchemaSet,
    /// Decisions of the operator about tables and existing objects.
    pub choices: Choices,
    /// Longest time for which a lock request may make writers wait.
    pub lock_timeout: Duration,
    /// Maximum number of rows in one batch. A batch that takes too long makes the next one smaller.
    pub batch_rows: u32,
    /// Whether each batch is followed by a pause of the same length.
    pub is_gentle: bool,
    /// Whether to wait for another run. Otherwise another run is an error.
    pub is_waiting: bool,
}

impl Default for AdoptionOptions {
    fn default() -> Self {
        Self {
            schema: SchemaSet::Core,
            choices: Choices::default(),
            lock_timeout: LOCK_TIMEOUT_DEFAULT,
            batch_rows: BATCH_ROWS_DEFAULT,
            is_gentle: false,
            is_waiting: true,
        }
    }
}
