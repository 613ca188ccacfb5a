//! Impact of the enforce phase: the roles that will see only rows of the organisation in their claims, and
//! statements that the server has recorded for these roles. The server does not show whether a role sets
//! claims, so every role that must set them is listed.

use std::fmt;

use sqlx::AssertSqlSafe;

use super::connection::{ExecutorConnection, StepError};
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
    /// Roles that are subject to policies and have rights on the tables.
    pub roles: Vec<RoleUsage>,
    /// Statements: role, text, and number of calls if it is known.
    pub statements: Vec<(String, String, Option<i64>)>,
    /// The view from which the statements were read.
    pub source: &'static str,
}

/// A role with rights on the tables.
#[derive(Debug, Clone)]
pub struct RoleUsage {
    /// Name of the role.
    pub name: String,
    /// Whether the role may log in.
    pub can_log_in: bool,
    /// Number of tables on which it has rights.
    pub tables: i64,
    /// Number of its present sessions in this database.
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
        // anon and authenticated are left out, because PostgREST and similar servers set claims for them.
        let roles = sqlx::query_as!(
            RoleUsage,
            r#"select r.rolname::text as "name!", r.rolcanlogin as "can_log_in!",
               (select count(*) from unnest($1::bigint[]) t (oid)
                where has_table_privilege(r.oid, t.oid::oid, 'select, insert, update, delete')) as "tables!",
               (select count(*) from pg_stat_activity a
                where a.usesysid = r.oid and a.datname = current_database()) as "sessions!",
               array(select distinct a.application_name from pg_stat_activity a
                     where a.usesysid = r.oid and a.datname = current_database() and a.application_name <> ''
                     order by 1 limit 5) as "applications!"
             from pg_roles r
             where not r.rolsuper and not r.rolbypassrls and r.rolname !~ '^pg_'
               and r.rolname not in ('anon', 'authenticated', 'warden_owner', 'warden_gateway', 'warden_publisher')
               and exists (select from unnest($1::bigint[]) t (oid)
                           where has_table_privilege(r.oid, t.oid::oid, 'select, insert, update, delete'))
             order by 4 desc, 1"#,
            &oids
        )
        .fetch_all(&mut connection.work)
        .await?;
        let mut impact =
            Self { tables: todo.len(), roles, statements: Vec::new(), source: "pg_stat_activity" };
        impact.read_statements(connection, todo).await?;
        Ok(impact)
    }

    async fn read_statements(
        &mut self,
        connection: &mut ExecutorConnection,
        todo: &[&TablePlan],
    ) -> Result<(), StepError> {
        let names: Vec<String> = todo.iter().map(|t| t.table.name.clone()).collect();
        let roles: Vec<String> = self.roles.iter().map(|r| r.name.clone()).collect();
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
            let query = format!(
                "select r.rolname::text, s.query, s.calls from {}.pg_stat_statements s
                 join pg_roles r on r.oid = s.userid
                 where s.dbid = (select oid from pg_database where datname = current_database())
                   and r.rolname = any ($2::text[]) and s.query ~* '^\\s*(select|insert|update|delete|merge|with|copy)\\M'
                   and {is_affected} order by s.calls desc limit {STATEMENTS_MAX}",
                quoted(&schema)
            );
            // The query fails if the extension exists, but the server does not load its library.
            if let Ok(rows) = sqlx::query_as(AssertSqlSafe(query))
                .bind(&names)
                .bind(&roles)
                .fetch_all(&mut connection.work)
                .await
            {
                self.statements = rows;
                self.source = "pg_stat_statements";
                return Ok(());
            }
        }
        let query = format!(
            "select distinct s.usename::text, s.query, null::bigint from pg_stat_activity s
             where s.datname = current_database() and s.usename = any ($2::text[]) and {is_affected}
             limit {STATEMENTS_MAX}"
        );
        self.statements = sqlx::query_as(AssertSqlSafe(query))
            .bind(&names)
            .bind(&roles)
            .fetch_all(&mut connection.work)
            .await?;
        Ok(())
    }
}

impl fmt::Display for EnforcementImpact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Enforcement restricts {} tables to rows of one organisation: the organisation in the claims\n\
             (request.jwt.claims) that a transaction sets. The role must be a member of authenticated.\n\
             Superusers and roles with BYPASSRLS are exempt. These roles are affected:",
            self.tables
        )?;
        if self.roles.is_empty() {
            writeln!(f, "  none")?;
        }
        for role in &self.roles {
            let login = if role.can_log_in { "" } else { ", cannot log in" };
            writeln!(
                f,
                "  {} ({} tables, {} sessions now{login}) {}",
                role.name,
                role.tables,
                role.sessions,
                role.applications.join(", ")
            )?;
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
        Ok(())
    }
}
