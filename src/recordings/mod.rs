//! Recordings of calls: copies them from their provider into the object store, organisation by organisation.
//!
//! - `worker` runs the jobs, fairly between organisations; `held` keeps their rows.
//! - `tables` names the tables and holds the SQL of the jobs; `queue` claims work and records how it ended.
//! - `transfer` copies one recording: `source` fetches it, `media` tells its type, `store` keeps it. A
//!   `failure` says whether another attempt may succeed.
//! - `cleanup` compares the store with the rows.
//! - `accounts` are those at the providers, each of one organisation.
//!
//! Every job runs in a transaction that is bound to its organisation, under row-level security, as a role
//! that cannot bypass it. This module must not know sessions, tokens or the hub.

mod accounts;
mod cleanup;
mod failure;
mod held;
mod media;
mod queue;
mod source;
mod store;
mod tables;
mod transfer;
mod upload;
mod worker;

use uuid::Uuid;

use crate::org::OrgId;

pub use accounts::{Account, Accounts, Provider};
pub use cleanup::{Cleanup, CleanupFinding, CleanupOptions, CleanupReport};
pub use failure::Failure;
pub use media::media_type;
pub use queue::{Claim, Claimed, ListedRow, Queue, StoredFile, Terms};
pub use source::{AddressPolicy, Credentials, Fetcher, Resolve, SourceLimits};
pub use store::{RecordingStore, StoredObject, Upload};
pub use transfer::Transfer;
pub use worker::{Counters, Worker, WorkerSettings};

/// Why a job could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RecordingsError {
    /// Nobody has named the tables.
    #[error(
        "no tables of recordings are named. As their owner: select warden.enable_recordings('public.recordings', \
         'public.recording_upload_queue', 'public.calls');"
    )]
    NoTables,
    /// Row-level security does not limit the worker in a table.
    #[error("nothing isolates organisations in {0}: run warden migrate --enforce")]
    NotIsolated(String),
    /// The database handed out a row of another organisation.
    #[error("row {row} of the queue, or what it names, is not of organisation {org}: nothing was changed")]
    ForeignRow {
        /// Organisation of the job.
        org: OrgId,
        /// Row of the queue.
        row: Uuid,
    },
    /// Another worker has taken the row over, or somebody has changed or deleted it.
    #[error("the worker no longer holds row {0} of the queue")]
    Lost(Uuid),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl RecordingsError {
    /// Whether the work of other organisations may go on: the database has rejected a statement, or a row.
    fn is_of_one_organization(&self) -> bool {
        match self {
            Self::ForeignRow { .. } | Self::Lost(_) => true,
            Self::Database(sqlx::Error::Database(error)) => {
                // Class 57 is a server that shuts down, class 53 one that lacks resources.
                error.code().is_none_or(|code| !code.starts_with("57P") && !code.starts_with("53"))
            }
            Self::NoTables | Self::NotIsolated(_) | Self::Database(_) => false,
        }
    }
}
