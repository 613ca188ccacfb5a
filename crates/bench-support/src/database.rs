//! The gateway's database: connections, and the organisations that a run creates for itself. No error
//! contains the password.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;
use warden_connect::{Address, Environment};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Wraps an error of sqlx in a message. The error's own text already contains the text of its source.
pub fn explain(message: &str) -> impl FnOnce(sqlx::Error) -> anyhow::Error + '_ {
    move |error| anyhow!("{message}: {error}")
}

/// Addresses and login of the database.
#[derive(Clone)]
pub struct Database {
    addresses: Vec<Address>,
    application: String,
}

impl Database {
    /// Parses a connection string in one of libpq's forms. PostgreSQL shows `application` as the name of the
    /// connections.
    pub fn parse(url: &str, application: &str) -> anyhow::Result<Self> {
        let addresses = warden_connect::parse(url, &Environment::of_process()).context("--database-url")?;
        Ok(Self { addresses, application: application.to_owned() })
    }

    /// Opens a connection. Of several addresses, the first that leads to a primary is used.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let mut problems = Vec::new();
        for address in &self.addresses {
            match timeout(CONNECT_TIMEOUT, self.connect_to(address)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => problems.push(format!("{}: {error}", address.name())),
                Err(_) => problems.push(format!("{}: no answer within {CONNECT_TIMEOUT:?}", address.name())),
            }
        }
        Err(anyhow!("cannot connect to PostgreSQL: check --database-url: {}", problems.join("; ")))
    }

    async fn connect_to(&self, address: &Address) -> Result<PgConnection, sqlx::Error> {
        let options = address.link().await?.with(|options| options.application_name(&self.application));
        let mut connection = options.connect().await?;
        let is_standby = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&mut connection).await?;
        if is_standby { Err(sqlx::Error::Configuration("is a standby".into())) } else { Ok(connection) }
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
