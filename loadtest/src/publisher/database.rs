//! The database of the gateway: connections, the organisations of a run, and how a transaction ended.
//! Every error says what to check, and none holds the password.

use bench_support::database::Database;

use crate::check::Outcome;

/// How a transaction ended; none where that is not known.
pub(super) async fn outcome(database: &Database, transaction: Option<&str>) -> Option<Outcome> {
    let mut connection = database.connect().await.ok()?;
    let query = sqlx::query_scalar("select pg_xact_status($1::text::xid8)").bind(transaction?);
    let status: Option<String> = query.fetch_one(&mut connection).await.ok()?;
    match status.as_deref() {
        Some("committed") => Some(Outcome::Committed),
        Some("aborted") => Some(Outcome::RolledBack),
        _ => None,
    }
}
