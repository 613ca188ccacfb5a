//! `warden audit`: whether this database keeps organisations apart, rule by rule, and what mends what does not.
//!
//! - `rules` is the table of rules; `sql/` holds those that are one question to the catalogs.
//! - `functions` reads what Warden's functions must be from the migrations themselves; `claims` calls them.
//! - `rows` and `plans` look at each table: at its rows, and at how they are found.
//! - `report` is what comes out; `render` prints it for people.
//!
//! It changes nothing, and locks no more than a reader does. Databases are met in every state, those without
//! Warden's schema too, so its queries are checked by the tests that run each of them, not at compile time;
//! and a rule that can't be judged is a finding: silence must mean that all is well.

mod claims;
mod functions;
mod plans;
mod progress;
mod render;
mod report;
mod rows;
mod rules;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

pub use progress::Progress;
pub use render::render;
pub use report::{Finding, Mend, Report, Run, Severity};
pub use rules::{RULES, Rule};

use crate::postgres::SchemaSet;

/// The longest that one statement may take, where nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The longest that it waits for a table somebody holds exclusively, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 5_000;
/// Rows that break a rule are counted up to here: beyond, the number tells nobody more.
const COUNTED_ROWS_MAX: i64 = 1_000;
/// Rules that are named while they are looked at together.
const NAMED_RULES_MAX: usize = 3;

/// How an audit goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The longest that one statement may take; a rule that needs longer is reported as not judged.
    pub timeout: Duration,
    /// Whether rows are looked at also where a valid constraint vouches for them.
    pub is_deep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: TIMEOUT_DEFAULT, is_deep: false }
    }
}

/// Rules that are one question to the catalogs each.
const CATALOG: &[(&[&str], &str)] = &[
    (
        &[
            "org-column",
            "filling",
            "not-enforced",
            "not-null",
            "organization-key",
            "parent-key",
            "parent-foreign-key",
            "org-index",
            "unique-index",
            "immutability",
            "row-security",
            "policy",
        ],
        include_str!("sql/objects.sql"),
    ),
    (
        &["table-kind", "parent-link", "unregistered-table", "open-user-table", "loose-key"],
        include_str!("sql/tables.sql"),
    ),
    (&["other-policy"], include_str!("sql/policies.sql")),
    (&["function-rights", "log-rights", "truncate-right"], include_str!("sql/rights.sql")),
    (&["bypassing-role", "owner-member", "silent-triggers", "bypassing-view"], include_str!("sql/roles.sql")),
    (&["default-organization", "several-memberships"], include_str!("sql/organizations.sql")),
    (&["watch-table", "watch-columns", "watch-triggers"], include_str!("sql/watches.sql")),
];

/// Audits a database in one read-only transaction, so that all rules see the same moment.
///
/// # Errors
/// When it can't be reached, or the connection is lost. What can't be judged is a finding of the report.
pub async fn run(
    database: &PgConnectOptions,
    options: Options,
    progress: &mut Progress,
) -> anyhow::Result<Report> {
    let database = database.clone().application_name("warden audit").disable_statement_logging();
    let mut connection =
        PgConnection::connect_with(&database).await.context("cannot connect to DATABASE_URL")?;
    connection.execute("begin isolation level repeatable read read only").await?;
    let report = inspect(&mut connection, options, progress).await?;
    connection.execute("rollback").await?;
    connection.close().await?;
    Ok(report)
}

/// The same within a transaction of the caller's, which is left as it was. Locks that it takes on
/// tables are released as soon as each has been looked at.
///
/// # Errors
/// As [`run`].
pub async fn inspect(
    connection: &mut PgConnection,
    options: Options,
    progress: &mut Progress,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    // Rows that a policy hides must not pass for rows that are not there: row_security = off makes that
    // an error. Without a search_path, names mean what the system's catalogs say.
    let settings = format!(
        "savepoint warden_audit; set local search_path = ''; set local row_security = off; set local jit = off; set local lock_timeout = {LOCK_TIMEOUT_MS}; \
         set local statement_timeout = {}",
        options.timeout.as_millis()
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
    let (database, server_version, is_standby): (String, String, bool) = sqlx::query_as(
        "select current_database()::text, split_part(current_setting('server_version'), ' ', 1), pg_is_in_recovery()",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut audit = Audit { connection, options, progress, findings: Vec::new(), unjudged: 0, tables: 0 };
    if audit.judge_schema().await? {
        audit.judge_everything().await?;
    }
    audit.progress.finish();
    let Audit { connection, findings, tables, unjudged, .. } = audit;
    connection.execute(sqlx::raw_sql("rollback to warden_audit; release warden_audit")).await?;
    let rules = RULES.len() - unjudged;
    let report = Report {
        version: report::VERSION,
        database,
        server_version,
        is_standby,
        tables,
        rules,
        took_ms: 0,
        findings,
    };
    Ok(report.finish(begun.elapsed()))
}

/// An audit under way.
struct Audit<'a> {
    connection: &'a mut PgConnection,
    options: Options,
    progress: &'a mut Progress,
    findings: Vec<Finding>,
    unjudged: usize,
    tables: i64,
}

/// A finding as a rule's query gives it.
#[derive(sqlx::FromRow)]
struct Row {
    rule: String,
    severity: Option<String>,
    table: Option<String>,
    object: String,
    cause: String,
    run: String,
    mend: String,
}

impl From<Row> for Finding {
    fn from(row: Row) -> Self {
        let rule = Rule::by_id(&row.rule).map_or(rules::NOT_JUDGED, |rule| rule.id);
        let mend = match row.run.as_str() {
            "sql" => Mend::sql(row.mend),
            "shell" => Mend::shell(row.mend),
            _ => Mend::decide(row.mend),
        };
        let mut finding = Self::new(rule, row.table.as_deref(), &row.object, row.cause, mend);
        match row.severity.as_deref() {
            Some("finding") => finding.severity = Severity::Finding,
            Some("notice") => finding.severity = Severity::Notice,
            _ => {}
        }
        finding
    }
}

async fn query(connection: &mut PgConnection, sql: &'static str) -> Result<Vec<Finding>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Finding::from).collect())
}

impl Audit<'_> {
    /// Whether there is anything to audit.
    async fn judge_schema(&mut self) -> anyhow::Result<bool> {
        // Not to_regclass(), which fails where the schema may not be looked into.
        let is_there: bool = sqlx::query_scalar(
            "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                            where n.nspname = 'warden' and c.relname = 'tenant_tables')",
        )
        .fetch_one(&mut *self.connection)
        .await?;
        if !is_there {
            let cause = "Warden's schema is not there: nothing keeps organisations apart".to_owned();
            self.findings.push(Finding::new("schema", None, "warden", cause, Mend::shell("warden migrate")));
            self.unjudged = RULES.len() - 1;
            return Ok(false);
        }
        self.judge(&["schema"], None, judge_migrations).await?;
        Ok(true)
    }

    async fn judge_everything(&mut self) -> anyhow::Result<()> {
        for (rules, sql) in CATALOG {
            self.judge(rules, None, async |connection: &mut PgConnection| query(connection, sql).await)
                .await?;
        }
        // What functions of another version must be, this one does not know: that it is another is told.
        if self.findings.iter().any(|finding| finding.rule == "schema") {
            self.unjudged += functions::RULES.len();
        } else {
            self.judge(functions::RULES, None, functions::judge).await?;
        }
        self.judge(&["claims"], None, claims::judge).await?;
        self.judge(&["token-hook"], None, claims::judge_hook).await?;
        self.judge_rows().await?;
        self.judge_plans().await
    }

    /// Runs what judges these rules. Whatever it set or locked is undone, and what the server refused makes
    /// one finding per rule.
    async fn judge(
        &mut self,
        rules: &[&'static str],
        table: Option<&str>,
        judge: impl AsyncFnOnce(&mut PgConnection) -> Result<Vec<Finding>, sqlx::Error>,
    ) -> anyhow::Result<()> {
        let mut what = rules[..rules.len().min(NAMED_RULES_MAX)].join(", ");
        if rules.len() > NAMED_RULES_MAX {
            what += " and others";
        }
        if let Some(table) = table {
            what += &format!(": {table}");
        }
        self.connection.execute("savepoint warden_rule").await?;
        let judged = self.progress.during(&what, judge(self.connection)).await;
        self.connection
            .execute(sqlx::raw_sql("rollback to warden_rule; release warden_rule"))
            .await
            .context("the connection to the database was lost")?;
        match judged {
            Ok(mut found) => self.findings.append(&mut found),
            // Class 57P: the server goes down, or an administrator ended the session.
            Err(sqlx::Error::Database(error))
                if !error.code().is_some_and(|code| code.starts_with("57P")) =>
            {
                self.unjudged += if table.is_none() { rules.len() } else { 0 };
                for rule in rules {
                    self.findings.push(not_judged(rule, table, error.as_ref(), self.options.timeout));
                }
            }
            Err(error) => return Err(anyhow::Error::new(error).context("the audit was broken off")),
        }
        Ok(())
    }
}

fn not_judged(
    rule: &str,
    table: Option<&str>,
    error: &dyn sqlx::error::DatabaseError,
    timeout: Duration,
) -> Finding {
    let code = error.code().unwrap_or_default();
    let (cause, mend) = match code.as_ref() {
        "57014" => (
            format!("it took longer than {} s", timeout.as_secs()),
            Mend::shell(format!("warden audit --timeout {}", timeout.as_secs().saturating_mul(10))),
        ),
        "55P03" => (
            "somebody holds the table exclusively".to_owned(),
            Mend::decide("run the audit again when that has ended; pg_locks says who it is"),
        ),
        "42501" => (
            error.message().to_owned(),
            Mend::decide(
                "run the audit as the role that runs `warden migrate` (it owns the tables, and is a member of warden_owner), or as a superuser",
            ),
        ),
        _ => (
            format!("{} ({code})", error.message()),
            Mend::decide("mend what the other findings say first; then run the audit again"),
        ),
    };
    Finding::new(rules::NOT_JUDGED, table, rule, format!("could not be judged: {cause}"), mend)
}

/// Compares the applied migrations of each set with those of this version.
async fn judge_migrations(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let mut found = judge_set(connection, SchemaSet::Core).await?;
    // Not to_regclass(), which fails if the role may not use the schema.
    let has_platform: bool = sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where n.nspname = 'warden' and c.relname = $1)",
    )
    .bind(SchemaSet::Platform.record())
    .fetch_one(&mut *connection)
    .await?;
    if has_platform {
        found.append(&mut judge_set(connection, SchemaSet::Platform).await?);
    }
    Ok(found)
}

async fn judge_set(connection: &mut PgConnection, set: SchemaSet) -> Result<Vec<Finding>, sqlx::Error> {
    let select = format!("select version, success, checksum from warden.{} order by version", set.record());
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as(AssertSqlSafe(select)).fetch_all(connection).await?;
    // A first run with --platform that failed chose nothing.
    if set == SchemaSet::Platform && applied.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut say = |version: i64, cause: &str, mend: Mend| {
        let object = format!("{} migration {version:04}", set.name());
        found.push(Finding::new("schema", None, &object, cause.to_owned(), mend));
    };
    let migrator = set.migrator();
    for migration in migrator.iter() {
        match applied.iter().find(|(version, ..)| *version == migration.version) {
            None | Some((_, false, _)) => {
                say(migration.version, "it was not applied", Mend::shell("warden migrate"));
            }
            Some((_, _, checksum)) if checksum != migration.checksum.as_ref() => say(
                migration.version,
                "it was applied in another form: this database belongs to another version of Warden",
                Mend::decide("run the audit with that version of Warden"),
            ),
            Some(_) => {}
        }
    }
    for (version, ..) in &applied {
        if !migrator.version_exists(*version) {
            say(
                *version,
                "this version of Warden does not know it: the database was migrated by a later one",
                Mend::decide("run the audit with that version of Warden"),
            );
        }
    }
    Ok(found)
}
