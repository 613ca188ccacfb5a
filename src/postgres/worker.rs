//! The one transaction in which jobs read and change rows of an organisation. It is bound to the
//! organisation: its role is `warden_worker`, its claims name the organisation, and row-level security
//! applies.

use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};

use crate::org::OrgId;

/// Role under which jobs run. Row-level security limits it to the organisation of the claims.
const WORKER_ROLE: &str = "warden_worker";

/// Longest time of a statement of a job. Jobs change a few rows each.
const STATEMENT_TIMEOUT: &str = "30s";

/// Begins a transaction that is bound to an organisation. Everything ends with the transaction.
///
/// # Errors
/// If the database cannot be reached, or the login role may not become `warden_worker`.
pub(crate) async fn begin_bound(
    pool: &PgPool,
    org: OrgId,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = pool.begin_with("begin isolation level read committed read write").await?;
    let claims = serde_json::json!({ "role": WORKER_ROLE, "app_metadata": { "org_id": org.to_string() } });
    let settings = [
        ("request.jwt.claims", claims.to_string()),
        ("row_security", "on".to_owned()),
        ("TimeZone", "UTC".to_owned()),
        ("statement_timeout", STATEMENT_TIMEOUT.to_owned()),
        ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT.to_owned()),
        // The last one: the login role may not have the right to set the others as this role.
        ("role", WORKER_ROLE.to_owned()),
    ];
    let (names, values): (Vec<&str>, Vec<String>) = settings.into_iter().unzip();
    sqlx::query("select set_config(name, value, true) from unnest($1::text[], $2::text[]) s (name, value)")
        .bind(names)
        .bind(values)
        .fetch_all(&mut *transaction)
        .await?;
    Ok(transaction)
}
