//! Limits of `warden migrate` and `warden audit`.

use std::time::Duration;

use super::Value::{Count, Time};
use super::{Limit, Section};
use crate::tenancy::{audit, executor};

pub(super) fn section() -> Section {
    Section { title: "Migration and audit", limits: [migrations(), executor_rows(), audit_rows()].concat() }
}

fn migrations() -> Vec<Limit> {
    vec![
        Limit::new(
            "lock_timeout of migrations",
            Time(Duration::from_secs(5)),
            "Longest wait of a migration for a lock. 200 ms for locks on the application's tables.",
        )
        .declared_as("set local lock_timeout = '5s'"),
        Limit::new(
            "statement_timeout of migrations",
            Time(Duration::from_secs(5 * 60)),
            "Longest statement of a migration.",
        )
        .declared_as("set local statement_timeout = '5min'"),
    ]
}

fn executor_rows() -> Vec<Limit> {
    vec![
        Limit::new(
            "tenancy::executor::LOCK_TIMEOUT_DEFAULT",
            Time(executor::LOCK_TIMEOUT_DEFAULT),
            "Longest time that a request for a lock makes writers wait.",
        )
        .set_by("WARDEN_LOCK_TIMEOUT_MS"),
        Limit::new(
            "tenancy::executor::LOCK_RETRY_MAX",
            Time(executor::LOCK_RETRY_MAX),
            "Time after which a step gives up its attempts to get a lock.",
        ),
        Limit::new(
            "tenancy::executor::BATCH_ROWS_DEFAULT",
            Count(executor::BATCH_ROWS_DEFAULT.into()),
            "Rows in one batch of the backfill.",
        )
        .set_by("WARDEN_BATCH_ROWS"),
        Limit::new(
            "tenancy::executor::BATCH_TARGET",
            Time(executor::BATCH_TARGET),
            "Target duration of one batch.",
        ),
        Limit::new(
            "tenancy::executor::WAIT_MAX",
            Time(executor::WAIT_MAX),
            "Longest wait of the backfill for locked rows and for older transactions.",
        ),
        Limit::new(
            "tenancy::executor::INDEX_RETRY_MAX",
            Time(executor::INDEX_RETRY_MAX),
            "Time after which the build of an index is no longer retried.",
        ),
    ]
}

fn audit_rows() -> Vec<Limit> {
    vec![
        Limit::new(
            "tenancy::audit::TIMEOUT_DEFAULT",
            Time(audit::TIMEOUT_DEFAULT),
            "Longest query of the audit.",
        ),
        Limit::new(
            "tenancy::audit::LOCK_TIMEOUT_MS",
            Time(Duration::from_millis(audit::LOCK_TIMEOUT_MS.into())),
            "Longest wait of the audit for a lock.",
        ),
        Limit::new(
            "tenancy::audit::COUNTED_ROWS_MAX",
            Count(audit::COUNTED_ROWS_MAX.unsigned_abs()),
            "Rows that violate a rule are counted up to this number.",
        ),
    ]
}
