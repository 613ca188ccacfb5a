//! Limits of reading rows.

use super::Value::{Count, Rate, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::filter;
use crate::reading::{self, ReadingLimits};

pub(super) fn section(limits: &Limits) -> Section {
    Section {
        title: "Reading",
        limits: [requests(limits), queries(limits), snapshots(limits), parameters(), joins(), columns()]
            .concat(),
    }
}

fn requests(limits: &Limits) -> Vec<Limit> {
    let ReadingLimits { page_bytes_max, memory_bytes_max, requests_per_org_max, wait_timeout, .. } =
        limits.reading;
    vec![
        Limit::new(
            "admission.reads_per_user",
            Rate(limits.admission.reads_per_user),
            "Requests for rows, and `POST /v1/covers`, of one user. Further ones get 429 `reads_per_user`.",
        )
        .set_by("WARDEN_READS_PER_USER"),
        Limit::new(
            "admission.reads_per_org",
            Rate(limits.admission.reads_per_org),
            "Requests for rows, and `POST /v1/covers`, of one organisation. Further ones get 429 `reads_per_org`.",
        )
        .set_by("WARDEN_READS_PER_ORG"),
        Limit::new(
            "admission.readers_max",
            Value::count(limits.admission.readers_max),
            "Users, and organisations, whose rates of reading are remembered. One that is evicted starts with a full \
             bucket.",
        ),
        Limit::new(
            "reading.requests_per_org_max",
            Value::count(requests_per_org_max),
            "Requests of one organisation that wait, are read or are sent. Further ones get 429 `org_reads`.",
        ),
        Limit::new(
            "reading.wait_timeout",
            Time(wait_timeout),
            "Longest wait for memory and a connection.",
        ),
        Limit::new(
            "reading.page_bytes_max",
            Value::bytes(page_bytes_max),
            "Rows of one page, and one row. A larger row is sent as its key alone.",
        ),
        Limit::new(
            "reading.memory_bytes_max",
            Value::bytes(memory_bytes_max),
            "Pages that are read or sent. A page counts twice its limit while it is read, then its size. One \
             organisation uses at most half, and no more than it leaves free.",
        ),
    ]
}

fn queries(limits: &Limits) -> Vec<Limit> {
    let ReadingLimits { statement_timeout, cost_max, count_max, .. } = limits.reading;
    vec![
        Limit::new(
            "reading.statement_timeout",
            Time(statement_timeout),
            "Longest transaction that reads a page. Beyond it the request gets 400 `query_too_slow`.",
        ),
        Limit::new(
            "reading.cost_max",
            Count(cost_max),
            "Cost of a query in PostgreSQL's estimate. Beyond it the request gets 400 `query_too_expensive`.",
        ),
        Limit::new(
            "reading.count_max",
            Value::count(count_max),
            "Total that is counted. A larger one is sent as null.",
        ),
        Limit::new(
            "reading::TABLES_MAX",
            Value::count(reading::TABLES_MAX),
            "Descriptions of tables in memory, by topic and selected columns. Beyond it the memory is cleared.",
        ),
    ]
}

fn snapshots(limits: &Limits) -> Vec<Limit> {
    let ReadingLimits {
        snapshots_per_org_max,
        snapshots_waiting_per_org_max,
        snapshot_page_bytes_max,
        snapshot_page_timeout,
        snapshot_timeout,
        ..
    } = limits.reading;
    vec![
        Limit::new(
            "reading.snapshots_per_org_max",
            Value::count(snapshots_per_org_max),
            "Joins of one organisation that are sent a snapshot at the same time. Further ones wait.",
        ),
        Limit::new(
            "reading.snapshots_waiting_per_org_max",
            Value::count(snapshots_waiting_per_org_max),
            "Joins of one organisation that wait for a snapshot, up to `reading.wait_timeout`. Further ones get the \
             error `org_reads`.",
        ),
        Limit::new(
            "reading.snapshot_page_bytes_max",
            Value::bytes(snapshot_page_bytes_max),
            "Page of a snapshot. A larger row is a page of its own.",
        ),
        Limit::new(
            "reading.snapshot_page_timeout",
            Time(snapshot_page_timeout),
            "Longest time in which a client accepts a page of a snapshot. Beyond it the session ends with 4429. A page \
             that cannot be read is tried again for as long.",
        ),
        Limit::new(
            "reading.snapshot_timeout",
            Time(snapshot_timeout),
            "Longest time from the first page of a snapshot to the last one. Beyond it the client gets a resync.",
        ),
    ]
}

fn parameters() -> Vec<Limit> {
    vec![
        Limit::new(
            "reading::ROWS_DEFAULT",
            Value::count(reading::ROWS_DEFAULT),
            "Rows of a page without the parameter `limit`. Pages of a snapshot then have up to `reading::ROWS_MAX`.",
        ),
        Limit::new("reading::ROWS_MAX", Value::count(reading::ROWS_MAX), "Rows of a page."),
        Limit::new(
            "filter::CONDITIONS_MAX",
            Value::count(filter::CONDITIONS_MAX),
            "Conditions of one request, groups included.",
        ),
        Limit::new("filter::DEPTH_MAX", Value::count(filter::DEPTH_MAX), "Levels of nested groups."),
        Limit::new(
            "filter::LIST_VALUES_MAX",
            Value::count(filter::LIST_VALUES_MAX),
            "Values of all `in` lists of one request.",
        ),
    ]
}

/// Limits of joins with a filter.
fn joins() -> Vec<Limit> {
    vec![
        Limit::new(
            "filter::DIGITS_MAX",
            Value::count(filter::DIGITS_MAX),
            "Digits of a `numeric` in the filter of a join, as PostgreSQL prints it.",
        ),
        Limit::new(
            "filter::FLOATING_CHARS_MAX",
            Value::count(filter::FLOATING_CHARS_MAX),
            "Characters of a pattern in the filter of a join, in those parts between two `%` that contain `_`.",
        ),
        Limit::new(
            "filter::PATTERN_STEPS_MAX",
            Value::count(filter::PATTERN_STEPS_MAX),
            "Characters that all patterns of filters read of one row. Channels of the organisation whose patterns are evaluated after that resync.",
        ),
        Limit::new(
            "reading::FILTER_BYTES_MAX",
            Value::bytes(reading::FILTER_BYTES_MAX),
            "`filter` and `select` of one join.",
        ),
        Limit::new(
            "reading::FILTER_VALUE_BYTES_MAX",
            Value::bytes(reading::FILTER_VALUE_BYTES_MAX),
            "Value in the filter of a join, in the form of events.",
        ),
        Limit::new(
            "reading::CONVERTED_VALUES_MAX",
            Value::count(reading::CONVERTED_VALUES_MAX),
            "Converted values of filters in memory. Beyond it they are converted again.",
        ),
        Limit::new(
            "reading::CONVERTED_BYTES_MAX",
            Value::bytes(reading::CONVERTED_BYTES_MAX),
            "Bytes of these values and of their spellings.",
        ),
        Limit::new(
            "reading::DESCRIPTIONS_MAX",
            Value::count(reading::DESCRIPTIONS_MAX),
            "Descriptions of tables that are read at a time for joins with a filter.",
        ),
        Limit::new(
            "reading::COLUMNS_AGE_MAX",
            Time(reading::COLUMNS_AGE_MAX),
            "Age at which the columns of a table are read again for the next join with a filter.",
        ),
    ]
}

fn columns() -> Vec<Limit> {
    vec![
        Limit::new(
            "reading::SELECT_COLUMNS_MAX",
            Value::count(reading::SELECT_COLUMNS_MAX),
            "Columns in `select`.",
        ),
        Limit::new(
            "reading::ORDER_COLUMNS_MAX",
            Value::count(reading::ORDER_COLUMNS_MAX),
            "Columns in `order`.",
        ),
        Limit::new(
            "reading::POSITION_BYTES_MAX",
            Value::bytes(reading::POSITION_BYTES_MAX),
            "Position of a page in its URL. If the values in the order are longer, the request gets 400.",
        ),
    ]
}
