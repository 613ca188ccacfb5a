//! The gateway's database: connections, and the organisations that a run creates for itself. No error
//! contains the password.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Wraps an error of sqlx in a message. The error's own text already contains the text of its source.
pub fn explain(message: &str) -> impl FnOnce(sqlx::Error) -> anyhow::Error + '_ {
    move |error| anyhow!("{message}: {error}")
}

/// Address and login of the database.
#[derive(Clone)]
pub struct Database(PgConnectOptions);

impl Database {
    /// Parses a PostgreSQL URL. PostgreSQL shows `application` as the name of the connections.
    pub fn parse(url: &str, application: &str) -> anyhow::Result<Self> {
        // The parser's error may quote the URL and thereby the password, so it is replaced.
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = url.parse::<PgConnectOptions>().ok().filter(|_| is_postgres).context(
            "--database-url is not a PostgreSQL URL: write e.g. postgres://user:password@localhost:5432/app",
        )?;
        Ok(Self(options.application_name(application)))
    }

    /// Opens a connection.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        timeout(CONNECT_TIMEOUT, self.0.connect())
            .await
            .with_context(|| {
                format!("PostgreSQL did not answer within {CONNECT_TIMEOUT:?}: check --database-url")
            })?
            .map_err(explain("cannot connect to PostgreSQL: check --database-url"))
    }
}

/// The organisations of one run, named `loadtest <run> <n>`.
pub struct Organisations {
    database: Database,
    run: String,
    /// Their ids.
    pub ids: Vec<Uuid>,
}

impl Organisations {
    /// Creates organisations in `public.organizations`.
    pub async fn create(database: &Database, run: &str, count: usize) -> anyhow::Result<Self> {
        let mut connection = database.connect().await?;
        let ids = sqlx::query_scalar(
            "insert into public.organizations (name)
             select format('loadtest %s %s', $1, k) from generate_series(1, $2::bigint) k returning id",
        )
        .bind(run)
        .bind(i64::try_from(count)?)
        .fetch_all(&mut connection)
        .await
        .map_err(explain(
            "cannot create organisations. Check that --database-url is the gateway's database, that `warden migrate` \
             has run, and that the role may write public.organizations",
        ))?;
        Ok(Self { database: database.clone(), run: run.to_owned(), ids })
    }

    /// Deletes the organisations and, by cascade, their calls. The error contains the statement to run by
    /// hand.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.try_remove().await.with_context(|| {
            format!(
                "could not delete the organisations of this run. Delete them by hand:\n  \
                 delete from public.organizations where name like 'loadtest {} %';\nCause",
                self.run
            )
        })
    }

    /// Deletes the organisations, each in its own transaction, so that no transaction is long.
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
