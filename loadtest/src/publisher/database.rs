//! The database of the gateway: connections, the organisations of a run, and how a transaction ended.
//! Every error says what to check, and none holds the password.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use crate::check::Outcome;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Puts what to do before an error of sqlx, whose text already holds that of its source.
pub(crate) fn explain(what: &str) -> impl FnOnce(sqlx::Error) -> anyhow::Error + '_ {
    move |error| anyhow!("{what}: {error}")
}

/// Where the database is, and as whom.
#[derive(Clone)]
pub(crate) struct Database(PgConnectOptions);

impl Database {
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        // The error of the parser may quote the URL, and with it the password.
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = url.parse::<PgConnectOptions>().ok().filter(|_| is_postgres).context(
            "--database-url is no PostgreSQL URL: write e.g. postgres://user:password@localhost:5432/app",
        )?;
        Ok(Self(options.application_name("warden-loadtest")))
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        timeout(CONNECT_TIMEOUT, self.0.connect())
            .await
            .with_context(|| {
                format!("PostgreSQL did not answer within {CONNECT_TIMEOUT:?}: check --database-url")
            })?
            .map_err(explain("cannot connect to PostgreSQL: check --database-url"))
    }

    /// How a transaction ended; none where that is not known.
    pub(crate) async fn outcome(&self, transaction: Option<&str>) -> Option<Outcome> {
        let mut connection = self.connect().await.ok()?;
        let query = sqlx::query_scalar("select pg_xact_status($1::text::xid8)").bind(transaction?);
        let status: Option<String> = query.fetch_one(&mut connection).await.ok()?;
        match status.as_deref() {
            Some("committed") => Some(Outcome::Committed),
            Some("aborted") => Some(Outcome::RolledBack),
            _ => None,
        }
    }
}

/// The organisations of a run.
pub(crate) struct Organisations {
    database: Database,
    run: String,
    pub(crate) ids: Vec<Uuid>,
}

impl Organisations {
    pub(crate) async fn create(database: &Database, run: &str, count: usize) -> anyhow::Result<Self> {
        let mut connection = database.connect().await?;
        let ids = sqlx::query_scalar(
            "insert into public.organizations (name)
             select format('loadtest %s %s', $1, k) from generate_series(1, $2::bigint) k returning id",
        )
        .bind(run)
        .bind(i64::try_from(count)?)
        .fetch_all(&mut connection)
        .await
        .map_err(explain("cannot make organisations: is it the database of the gateway, has `warden migrate` run, and may this role write public.organizations?"))?;
        Ok(Self { database: database.clone(), run: run.to_owned(), ids })
    }

    /// Removes them, and by cascade their calls, one at a time to keep transactions short. Where that
    /// fails, says how to do it by hand.
    pub(crate) async fn remove(self) {
        let Err(error) = self.try_remove().await else { return };
        eprintln!("warden-loadtest: could not remove the organisations: {error:#}. Later, by hand:");
        eprintln!("  delete from public.organizations where name like 'loadtest {} %';", self.run);
    }

    async fn try_remove(&self) -> anyhow::Result<()> {
        let mut connection = self.database.connect().await?;
        for org in &self.ids {
            sqlx::query("delete from public.organizations where id = $1")
                .bind(org)
                .execute(&mut connection)
                .await
                .map_err(explain("delete"))?;
        }
        connection.close().await.map_err(explain("cannot close the connection"))
    }
}
