//! The outcome of a transaction whose connection broke during COMMIT.

use bench_support::database::Database;

use crate::check::Outcome;

/// Queries how a transaction ended. `None` if that cannot be found out, or not yet.
pub(super) async fn query(database: &Database, transaction_id: Option<&str>) -> Option<Outcome> {
    let mut connection = database.connect().await.ok()?;
    let query = sqlx::query_scalar("select pg_xact_status($1::text::xid8)").bind(transaction_id?);
    let status: Option<String> = query.fetch_one(&mut connection).await.ok()?;
    match status.as_deref() {
        Some("committed") => Some(Outcome::Committed),
        Some("aborted") => Some(Outcome::RolledBack),
        _ => None,
    }
}
