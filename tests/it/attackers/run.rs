//! One attack on one database, and whether it succeeded.

use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, ValueRef as _};
use warden_devkit::cluster::SUPERUSER;

use super::list::Attack;
use crate::harness::managed::{BEN, ManagedDb, ORG_B};

/// Every row of the organisation A contains this string, and no statement of an attacker that fails.
const MARKER: &str = "secret-of-a";

/// A role that attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attacker {
    /// A request without a token.
    Anon,
    /// A request with a token of the organisation B.
    Authenticated,
    /// A login role of the cluster without any grant.
    Ordinary,
}

impl Attacker {
    pub const ALL: [Self; 3] = [Self::Anon, Self::Authenticated, Self::Ordinary];

    fn login(self) -> &'static str {
        match self {
            Self::Anon => "anon_login",
            Self::Authenticated => "authenticated_login",
            Self::Ordinary => "ordinary_login",
        }
    }

    /// Role of the attacker after the login.
    fn role(self) -> &'static str {
        match self {
            Self::Anon => "anon",
            Self::Authenticated => "authenticated",
            Self::Ordinary => "ordinary_login",
        }
    }

    async fn connect(self, app: &ManagedDb) -> PgConnection {
        let mut connection = app.connect_as(self.login()).await;
        let claims = match self {
            Self::Authenticated => format!(
                r#"{{"sub": "{BEN}", "role": "authenticated", "app_metadata": {{"org_id": "{ORG_B}"}}}}"#
            ),
            Self::Anon | Self::Ordinary => String::new(),
        };
        let setup = format!(
            "set role {}; set statement_timeout = '5s'; set lock_timeout = '1s';
             select set_config('request.jwt.claims', '{claims}', false)",
            self.role()
        );
        connection.execute(sqlx::raw_sql(AssertSqlSafe(setup))).await.expect("the role");
        connection
    }
}

/// Effects of an attack on the attacker.
struct Seen {
    /// Everything that the attacker saw.
    text: String,
    /// Whether the attacker became another role.
    is_other_role: bool,
    /// Process of the attacker's session.
    pid: i32,
}

/// Runs the statements in a session of their own.
async fn statements(app: &ManagedDb, attacker: Attacker, attack: &Attack) -> Seen {
    let mut connection = attacker.connect(app).await;
    let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.expect("a pid");
    let mut text = String::new();
    for sql in &attack.statements {
        match output(&mut connection, sql).await {
            Ok(rows) => text.push_str(&rows),
            Err(error) => text.push_str(&error_text(&error)),
        }
        text.push('\n');
    }
    let _ = connection.execute("rollback").await;
    let role: Result<String, _> =
        sqlx::query_scalar("select current_user::text || ' ' || session_user::text")
            .fetch_one(&mut connection)
            .await;
    let is_other_role = role.is_ok_and(|role| {
        let own = [attacker.role(), attacker.login()];
        role.split(' ').any(|name| !own.contains(&name))
    });
    let _ = connection.close().await;
    Seen { text, is_other_role, pid }
}

/// Rows of a statement as text.
async fn output(connection: &mut PgConnection, sql: &str) -> Result<String, sqlx::Error> {
    if sql.starts_with("copy ") && sql.ends_with(" to stdout") {
        let mut stream = connection.copy_out_raw(sql).await?;
        let mut text = String::new();
        while let Some(bytes) = stream.try_next().await? {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        return Ok(text);
    }
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
    let mut text = String::new();
    for row in &rows {
        for n in 0..row.len() {
            let value = row.try_get_raw(n)?;
            if !value.is_null() {
                text.push_str(value.as_str().unwrap_or_default());
                text.push(' ');
            }
        }
    }
    Ok(text)
}

/// All parts of an error, because each may show a value.
fn error_text(error: &sqlx::Error) -> String {
    let Some(error) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return error.to_string();
    };
    [Some(error.message()), error.detail(), error.hint(), error.r#where()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Result of an attack.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// Description of the success; nothing if the attack failed.
    pub gain: Option<String>,
    /// Whether the database must be restored.
    pub is_changed: bool,
    /// Everything that the attacker saw.
    pub seen: String,
}

/// A copy of a database, and the state that no attack may change.
pub struct Target {
    copy: ManagedDb,
    superuser: PgConnection,
    before: Value,
}

impl Target {
    pub async fn copy_of(app: &ManagedDb) -> Self {
        let copy = app.copy().await;
        let mut superuser = copy.connect_as(SUPERUSER).await;
        let before = state(&mut superuser).await;
        Self { copy, superuser, before }
    }

    /// Runs an attack, and compares the state with the former one.
    pub async fn attack(&mut self, attacker: Attacker, attack: &Attack) -> Outcome {
        let Seen { text: seen, is_other_role, pid } = statements(&self.copy, attacker, attack).await;
        // The end of the session drops its temporary objects.
        sqlx::query("select pg_terminate_backend($1, 10000)")
            .bind(pid)
            .execute(&mut self.superuser)
            .await
            .expect("waits for the end");
        let after = state(&mut self.superuser).await;
        let changed: Vec<&str> = self
            .before
            .as_object()
            .expect("a document")
            .iter()
            .filter(|(part, value)| after[part.as_str()] != **value)
            .map(|(part, _)| part.as_str())
            .collect();
        let gain = if seen.contains(MARKER) {
            Some(format!("saw {}", seen.trim()))
        } else if is_other_role {
            Some("became another role".to_owned())
        } else if changed.is_empty() {
            None
        } else {
            Some(format!("changed {}", changed.join(", ")))
        };
        Outcome { gain, is_changed: !changed.is_empty(), seen }
    }

    /// Drops the copy.
    pub async fn remove(self) {
        drop(self.superuser);
        self.copy.remove().await;
    }
}

async fn state(connection: &mut PgConnection) -> Value {
    sqlx::query_scalar(AssertSqlSafe(super::file("state.sql")))
        .fetch_one(connection)
        .await
        .expect("the state")
}

/// The state of a database, which no attack may change.
pub async fn state_of(app: &ManagedDb) -> Value {
    state(&mut app.connect_as(SUPERUSER).await).await
}

/// Runs an attack while something else changes the database. Returns what the attacker saw or became.
pub async fn run_during(app: &ManagedDb, attacker: Attacker, attack: &Attack) -> Option<String> {
    let seen = statements(app, attacker, attack).await;
    (seen.text.contains(MARKER) || seen.is_other_role).then(|| format!("saw or became {}", seen.text.trim()))
}
