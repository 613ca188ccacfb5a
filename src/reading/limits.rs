//! Limits of reading that are configured. Limits of a query are constants beside its parser.

use std::time::Duration;

/// Limits of reading.
#[derive(Clone, Copy, Debug)]
pub struct ReadingLimits {
    /// Bytes of one page, and of one row.
    pub page_bytes_max: usize,
    /// Memory of all pages that are read or sent.
    pub memory_bytes_max: usize,
    /// Requests of one organisation that wait, are read or are sent.
    pub requests_per_org_max: usize,
    /// Longest wait for memory and a connection.
    pub wait_timeout: Duration,
    /// Longest statement.
    pub statement_timeout: Duration,
    /// Highest cost of a query in PostgreSQL's estimate.
    pub cost_max: u64,
    /// Highest total that is counted.
    pub count_max: usize,
    /// Snapshots of one organisation that are read or sent at the same time.
    pub snapshots_per_org_max: usize,
    /// Snapshots of one organisation that wait until another one ends.
    pub snapshots_waiting_per_org_max: usize,
    /// Bytes after which a page of a snapshot ends. A larger row is a page of its own.
    pub snapshot_page_bytes_max: usize,
    /// Longest time in which a client accepts a page of a snapshot, and in which a later page is tried again.
    pub snapshot_page_timeout: Duration,
    /// Longest time from the first page of a snapshot to the last one.
    pub snapshot_timeout: Duration,
}
