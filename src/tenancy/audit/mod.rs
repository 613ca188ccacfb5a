//! `warden audit`: whether a database isolates organisations, rule by rule, and how to repair it.
//!
//! - `rules` is the table of rules; `sql/` holds the rules that are one query to the catalogs each.
//! - `migrations` and `functions` compare the schema with the migrations; `claims` calls the functions.
//! - `rows` and `plans` check each table: its rows, and the plans that find them.
//! - `decisions` turns accepted findings into notices.
//! - `unchecked` reports rules that could not be checked.
//! - `report` is the result, with a `remedy` for each finding; `render` prints it as text.
//!
//! An audit changes nothing, and takes no stronger locks than a reader. It runs on databases in every state,
//! also without Warden's schema, so tests run its queries, and nothing checks them at compile time. A rule
//! that cannot be checked is a finding, because silence must mean that the database is clean.

mod claims;
mod decisions;
mod functions;
mod migrations;
mod plans;
mod progress;
mod remedy;
mod render;
mod report;
mod rows;
mod rules;
mod unchecked;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

pub use progress::AuditProgress;
pub use remedy::{Choice, Remedy, RemedyKind};
pub use render::render;
pub use report::{Finding, Report};
pub use rules::{RULES, Rule, Severity};
use unchecked::Auditor;

/// Default of [`AuditOptions::timeout`].
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Longest wait for a table that is locked exclusively, in milliseconds.
pub(crate) const LOCK_TIMEOUT_MS: u32 = 5_000;
/// Rows that violate a rule are counted up to this number.
pub(crate) const COUNTED_ROWS_MAX: i64 = 1_000;
/// Maximum number of rules that the progress output names if they are checked together.
const NAMED_RULES_MAX: usize = 3;

/// Options of an audit.
#[derive(Debug, Clone, Copy)]
pub struct AuditOptions {
    /// Longest duration of one statement. A rule that needs longer is reported as not checked.
    pub timeout: Duration,
    /// Whether rows are read even if a valid constraint guarantees them.
    pub is_deep: bool,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self { timeout: TIMEOUT_DEFAULT, is_deep: false }
    }
}

/// Rules that are one query to the catalogs each.
const CATALOG: &[(&[&str], &str)] = &[
    (
        &[
            "org-column",
            "fill-trigger",
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
    (&["table-kind", "parent-link", "open-user-table"], include_str!("sql/tables.sql")),
    (&["unregistered-table"], include_str!("sql/unregistered.sql")),
    (&["loose-key"], include_str!("sql/keys.sql")),
    (&["other-policy"], include_str!("sql/policies.sql")),
    (&["function-rights", "log-rights", "truncate-right"], include_str!("sql/rights.sql")),
    (
        &["bypassing-role", "owner-member", "organization-owner", "silent-triggers"],
        include_str!("sql/roles.sql"),
    ),
    (&["bypassing-view"], include_str!("sql/views.sql")),
    (&["policy-condition"], include_str!("sql/policy_conditions.sql")),
    (&["claim-setter"], include_str!("sql/claim_setters.sql")),
    (
        &["warden-owner", "warden-trigger", "session-default", "table-owner"],
        include_str!("sql/foundation.sql"),
    ),
    (&["request-role", "all-data-role", "role-creator", "schema-right"], include_str!("sql/memberships.sql")),
    (
        &[
            "definer-function",
            "rewrite-rule",
            "sequence-right",
            "foreign-data",
            "server-function",
            "queue-table",
            "publication",
            "event-trigger",
            "large-object",
            "storage-policy",
        ],
        include_str!("sql/surroundings.sql"),
    ),
    (&["default-organization", "several-memberships"], include_str!("sql/organizations.sql")),
    (
        &["watch-table", "watch-columns", "watch-shape", "watch-triggers", "watch-replication"],
        include_str!("sql/watches.sql"),
    ),
];

/// Audits a database in one read-only transaction, so that all rules see the same snapshot.
///
/// # Errors
/// If the database cannot be reached, its role may not use schema `warden`, or the connection is lost. If
/// a rule cannot be checked, that is a finding and no error.
pub async fn run(
    database: &PgConnectOptions,
    options: AuditOptions,
    progress: &mut AuditProgress,
) -> anyhow::Result<Report> {
    let database = database.clone().application_name("warden audit").disable_statement_logging();
    let mut connection = crate::postgres::connect(&database).await?;
    if let Some(missing) = crate::postgres::missing_schema_right(&mut connection).await? {
        anyhow::bail!("no rule can be checked: {missing}");
    }
    connection.execute("begin isolation level repeatable read read only").await?;
    let report = inspect(&mut connection, options, progress).await?;
    connection.execute("rollback").await?;
    connection.close().await?;
    Ok(report)
}

/// Audits a database within a transaction of the caller's, and leaves that transaction unchanged. Locks on a
/// table are released as soon as the table is checked.
///
/// # Errors
/// As [`run`].
pub async fn inspect(
    connection: &mut PgConnection,
    options: AuditOptions,
    progress: &mut AuditProgress,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    // row_security = off: a query on rows that a policy hides fails, so hidden rows do not look like missing
    // rows. Without a search_path, unqualified names are those of the system catalogs.
    let settings = format!(
        "savepoint warden_audit; set local search_path = ''; set local row_security = off; {}set local lock_timeout = {LOCK_TIMEOUT_MS}; \
         set local statement_timeout = {}",
        crate::postgres::dialect(true),
        options.timeout.as_millis()
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
    let (database, server_version, is_standby): (String, String, bool) = sqlx::query_as(
        "select current_database()::text, split_part(current_setting('server_version'), ' ', 1), pg_is_in_recovery()",
    )
    .fetch_one(&mut *connection)
    .await?;
    let auditor = Auditor::read(connection).await?;
    let mut audit = Audit {
        connection,
        auditor,
        options,
        progress,
        findings: Vec::new(),
        accepted: None,
        unchecked: 0,
        tables: 0,
    };
    if audit.check_schema().await? {
        audit.check_everything().await?;
        decisions::apply(&mut audit.findings, audit.accepted.as_deref());
    }
    audit.progress.finish();
    let Audit { connection, findings, tables, unchecked, .. } = audit;
    connection.execute(sqlx::raw_sql("rollback to warden_audit; release warden_audit")).await?;
    let rules = RULES.len() - unchecked;
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

/// An audit in progress.
struct Audit<'a> {
    connection: &'a mut PgConnection,
    auditor: Auditor,
    options: AuditOptions,
    progress: &'a mut AuditProgress,
    findings: Vec<Finding>,
    accepted: Option<Vec<decisions::Decision>>,
    unchecked: usize,
    tables: i64,
}

/// A finding as a rule's query returns it.
#[derive(sqlx::FromRow)]
struct FindingRow {
    rule: String,
    severity: Option<String>,
    table: Option<String>,
    object: String,
    cause: String,
    remedy_kind: String,
    remedy: String,
}

impl From<FindingRow> for Finding {
    fn from(row: FindingRow) -> Self {
        let rule = Rule::by_id(&row.rule).map_or(rules::NOT_CHECKED, |rule| rule.id);
        let remedy = Remedy::from_row(&row.remedy_kind, &row.remedy);
        let mut finding = Self::new(rule, row.table.as_deref(), &row.object, row.cause, remedy);
        match row.severity.as_deref() {
            Some("finding") => finding.severity = Severity::Finding,
            Some("notice") => finding.severity = Severity::Notice,
            _ => {}
        }
        finding
    }
}

async fn query(connection: &mut PgConnection, sql: &'static str) -> Result<Vec<Finding>, sqlx::Error> {
    let rows: Vec<FindingRow> = sqlx::query_as(sql).fetch_all(connection).await?;
    Ok(rows.into_iter().map(Finding::from).collect())
}

/// Whether schema `warden` contains a relation. (`to_regclass()` fails if the role may not use the schema.)
async fn has_relation(connection: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                        where n.nspname = 'warden' and c.relname = $1)",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

impl Audit<'_> {
    /// Checks Warden's schema. Returns whether there is anything else to audit.
    async fn check_schema(&mut self) -> anyhow::Result<bool> {
        if !has_relation(self.connection, "tenant_tables").await? {
            let cause = "Warden's schema does not exist: nothing isolates organisations".to_owned();
            let remedy = Remedy::shell("warden migrate");
            self.findings.push(Finding::new("schema", None, "warden", cause, remedy));
            self.unchecked = RULES.len() - 1;
            return Ok(false);
        }
        let mut accepted = None;
        self.check(&["schema"], None, async |connection: &mut PgConnection| {
            accepted = decisions::accepted(connection).await?;
            migrations::check(connection).await
        })
        .await?;
        self.accepted = accepted;
        Ok(true)
    }

    async fn check_everything(&mut self) -> anyhow::Result<()> {
        for (rules, sql) in CATALOG {
            self.check(rules, None, async |connection: &mut PgConnection| query(connection, sql).await)
                .await?;
        }
        // This version cannot know the functions of another one, which is a finding already.
        if self.findings.iter().any(|finding| finding.rule == "schema") {
            self.unchecked += functions::RULES.len();
        } else {
            self.check(functions::RULES, None, functions::check).await?;
        }
        self.check(&["claims"], None, claims::check).await?;
        self.check(&["token-hook"], None, claims::check_hook).await?;
        self.check_rows().await?;
        self.check_plans().await
    }

    /// Runs a check for these rules. Its settings and locks are rolled back. If the server rejects a query,
    /// each of the rules gets a finding.
    async fn check(
        &mut self,
        rules: &[&'static str],
        table: Option<&str>,
        check: impl AsyncFnOnce(&mut PgConnection) -> Result<Vec<Finding>, sqlx::Error>,
    ) -> anyhow::Result<()> {
        let mut label = rules[..rules.len().min(NAMED_RULES_MAX)].join(", ");
        if rules.len() > NAMED_RULES_MAX {
            label += " and others";
        }
        if let Some(table) = table {
            label += &format!(": {table}");
        }
        self.connection.execute("savepoint warden_rule").await?;
        let checked = self.progress.during(&label, check(self.connection)).await;
        self.connection
            .execute(sqlx::raw_sql("rollback to warden_rule; release warden_rule"))
            .await
            .context("the connection to the database was lost")?;
        match checked {
            Ok(mut found) => self.findings.append(&mut found),
            // Class 57P: the server shuts down, or an administrator ended the connection.
            Err(sqlx::Error::Database(error))
                if !error.code().is_some_and(|code| code.starts_with("57P")) =>
            {
                self.unchecked += if table.is_none() { rules.len() } else { 0 };
                for rule in rules {
                    let finding = self.auditor.not_checked(rule, table, error.as_ref(), self.options.timeout);
                    self.findings.push(finding);
                }
            }
            Err(error) => return Err(anyhow::Error::new(error).context("the audit was interrupted")),
        }
        Ok(())
    }
}
