//! Impact of the enforce phase: what each role may do before and after it, the roles that will see only rows
//! of the organisation in their claims, their sessions, and statements that the server has recorded for them.
//! The server does not show whether a role sets claims, so every role that must set them is listed.

use std::fmt;

use sqlx::AssertSqlSafe;

use super::connection::{ExecutorConnection, StepError};
use crate::tenancy::access::AccessOverview;
use crate::tenancy::plan::TablePlan;
use crate::tenancy::sql::quoted;

/// Maximum number of statements shown.
const STATEMENTS_MAX: usize = 20;
/// Maximum number of characters shown of a statement.
const STATEMENT_CHARACTERS_MAX: usize = 160;

/// Roles and statements that the enforce phase affects.
#[derive(Debug, Clone, Default)]
pub struct EnforcementImpact {
    /// Number of tables to be enforced.
    pub tables: usize,
    /// Access of each role before and after.
    pub access: AccessOverview,
    /// Roles that are subject to policies and have rights on the tables.
    pub roles: Vec<RoleUsage>,
    /// Statements: role, text, and number of calls if it is known.
    pub statements: Vec<(String, String, Option<i64>)>,
    /// The view from which the statements were read.
    pub source: &'static str,
    /// Whether the server hides statements and sessions of other roles from the migrating role.
    pub is_hidden: bool,
}

/// A role with rights on the tables.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RoleUsage {
    /// Name of the role.
    pub name: String,
    /// Whether the role may log in.
    pub can_log_in: bool,
    /// Number of tables on which, or on a member of which, it has rights.
    pub tables: i64,
    /// Login roles that may become this role by SET ROLE.
    pub logins: Vec<String>,
    /// Number of present sessions in this database, of the role and of these login roles.
    pub sessions: i64,
    /// Application names of these sessions.
    pub applications: Vec<String>,
}

impl EnforcementImpact {
    pub(super) async fn read(
        connection: &mut ExecutorConnection,
        todo: &[&TablePlan],
    ) -> Result<Self, StepError> {
        let oids: Vec<i64> = todo.iter().map(|t| t.table.oid).collect();
        let own_pids = connection.own_pids().await?;
        let roles = sqlx::query_as(include_str!("sql/affected_roles.sql"))
            .bind(&oids)
            .bind(&own_pids)
            .fetch_all(&mut connection.work)
            .await?;
        let is_hidden =
            connection.scalar("select not pg_has_role('pg_read_all_stats', 'usage')".to_owned()).await?;
        let access = AccessOverview::read(&mut connection.work, &oids).await?;
        let mut impact = Self {
            tables: todo.len(),
            access,
            roles,
            source: "pg_stat_activity",
            is_hidden,
            ..Self::default()
        };
        impact.read_statements(connection, todo, &own_pids).await?;
        Ok(impact)
    }

    async fn read_statements(
        &mut self,
        connection: &mut ExecutorConnection,
        todo: &[&TablePlan],
        own_pids: &[i32],
    ) -> Result<(), StepError> {
        // A statement may name a member.
        let names: Vec<String> = todo.iter().flat_map(|t| t.tree()).map(|t| t.table.name.clone()).collect();
        let effective: Vec<String> = self.roles.iter().map(|r| r.name.clone()).collect();
        let is_affected =
            "exists (select from unnest($1::text[]) t (name) where s.query ~* ('\\m' || t.name || '\\M'))
                      and s.query !~* '\\morg_id\\M|request\\.jwt'";
        let extension = sqlx::query_scalar!(
            r#"select n.nspname::text as "schema!" from pg_extension e join pg_namespace n on n.oid = e.extnamespace
               where e.extname = 'pg_stat_statements'"#
        )
        .fetch_optional(&mut connection.work)
        .await?;
        if let Some(schema) = extension {
            // It records the role that SET ROLE chose.
            let query = format!(
                "select r.rolname::text, s.query, s.calls from {}.pg_stat_statements s
                 join pg_roles r on r.oid = s.userid
                 where s.dbid = (select oid from pg_database where datname = current_database())
                   and r.rolname = any ($2::text[]) and s.query ~* '^\\s*(select|insert|update|delete|merge|with|copy)\\M'
                   and {is_affected} order by s.calls desc limit {STATEMENTS_MAX}",
                quoted(&schema)
            );
            // The query fails if the server does not load the library, or the role may not use the schema.
            if let Ok(rows) = sqlx::query_as(AssertSqlSafe(query))
                .bind(&names)
                .bind(&effective)
                .fetch_all(&mut connection.work)
                .await
            {
                self.statements = rows;
                self.source = "pg_stat_statements";
                return Ok(());
            }
        }
        // This view shows the role that logged in.
        let logins: Vec<String> =
            self.roles.iter().flat_map(|r| r.logins.iter().chain([&r.name]).cloned()).collect();
        let query = format!(
            "select distinct s.usename::text, s.query, null::bigint from pg_stat_activity s
             where s.datname = current_database() and s.usename = any ($2::text[]) and s.pid <> all ($3::int[])
               and {is_affected} limit {STATEMENTS_MAX}"
        );
        self.statements = sqlx::query_as(AssertSqlSafe(query))
            .bind(&names)
            .bind(&logins)
            .bind(own_pids)
            .fetch_all(&mut connection.work)
            .await?;
        Ok(())
    }
}

impl fmt::Display for EnforcementImpact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.access)?;
        writeln!(
            f,
            "Enforcement restricts {} tables to rows of one organisation: the organisation in the claims\n\
             (request.jwt.claims) that a transaction sets. Superusers and roles with BYPASSRLS are exempt.\n\
             These roles must set claims (PostgREST does so for anon and authenticated):",
            self.tables
        )?;
        if self.roles.is_empty() {
            writeln!(f, "  none")?;
        }
        for role in &self.roles {
            writeln!(f, "  {role}")?;
        }
        writeln!(
            f,
            "Statements of these roles on these tables that do not mention org_id (from {}):",
            self.source
        )?;
        if self.statements.is_empty() {
            writeln!(f, "  none seen")?;
        }
        for (role, text, calls) in &self.statements {
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let line: String = line.chars().take(STATEMENT_CHARACTERS_MAX).collect();
            let calls = calls.map_or(String::new(), |n| format!(", {n} calls"));
            writeln!(f, "  {role}{calls}: {line}")?;
        }
        if self.is_hidden {
            writeln!(
                f,
                "The server hides statements of other roles from this role: grant pg_read_all_stats to it to see them."
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for RoleUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tables, sessions, .. } = self;
        write!(f, "{name} ({tables} tables, {sessions} sessions now")?;
        match (self.logins.is_empty(), self.can_log_in) {
            (true, false) => write!(f, ", no role may log in as it")?,
            (true, true) => {}
            (false, _) => write!(f, ", also by SET ROLE of {}", self.logins.join(", "))?,
        }
        write!(f, ")")?;
        if !self.applications.is_empty() {
            write!(f, " {}", self.applications.join(", "))?;
        }
        Ok(())
    }
}
