//! The one transaction in which rows of tenants are read. It sees one snapshot, changes nothing, and is bound
//! to a user: first it is the gateway's, which reads the log, then the user's, and row-level security
//! applies.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Postgres, Transaction};

/// Role under which rows are read. Row-level security is written for it.
const USER_ROLE: &str = "authenticated";

/// Begins the transaction of a pool's connection.
pub(super) const BEGIN: &str = "begin isolation level repeatable read read only";

/// Settings of the transaction. Those that change how PostgreSQL prints or reads values have the values that
/// documents of events have (`warden.row_documents()` has the same).
const SETTINGS: [(&str, &str); 10] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("row_security", "on"),
    ("jit", "off"),
];

/// Begins the transaction, as the gateway's role. On a pooled session the pool has begun it already.
pub(crate) async fn begin_snapshot(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    if connection.is_in_transaction() { connection.begin().await } else { connection.begin_with(BEGIN).await }
}

/// Binds the rest of the transaction to a user: its role, the claims of its token, and the longest time of
/// each statement. Everything ends with the transaction.
pub(crate) async fn bind_to_user(
    transaction: &mut PgConnection,
    claims: &str,
    statement_timeout: Duration,
) -> Result<(), sqlx::Error> {
    let milliseconds = statement_timeout.as_millis().to_string();
    let own = [("request.jwt.claims", claims), ("statement_timeout", &milliseconds), ("role", USER_ROLE)];
    let (names, values): (Vec<&str>, Vec<&str>) = SETTINGS.into_iter().chain(own).unzip();
    sqlx::query("select set_config(name, value, true) from unnest($1::text[], $2::text[]) s (name, value)")
        .bind(names)
        .bind(values)
        .fetch_all(transaction)
        .await
        .map(|_| ())
}
