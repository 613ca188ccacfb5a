//! Whom the second phase would cut off: roles that reach the tables and are held to policies, and what they
//! were seen to run. Whether a role sets claims can't be seen from outside, so this names all who must.

use std::fmt;

use sqlx::AssertSqlSafe;

use super::session::{Session, StepError};
use crate::tenancy::plan::TablePlan;
use crate::tenancy::quoted;

/// Statements that are shown.
const STATEMENTS_MAX: usize = 20;
/// Characters of a statement that are shown.
const STATEMENT_CHARACTERS_MAX: usize = 160;

/// What enforcing would cut off.
#[derive(Debug, Clone, Default)]
pub struct Cutoff {
    /// Tables that would be enforced.
    pub tables: usize,
    /// Roles, with what is known of them.
    pub roles: Vec<RoleUse>,
    /// Statements: role, text, and how often where that is known.
    pub statements: Vec<(String, String, Option<i64>)>,
    /// Where the statements come from.
    pub source: &'static str,
}

/// A role that may use the tables.
#[derive(Debug, Clone)]
pub struct RoleUse {
    /// Its name.
    pub name: String,
    /// Whether it may log in.
    pub can_log_in: bool,
    /// Tables that it may use.
    pub tables: i64,
    /// Its sessions in this database now.
    pub sessions: i64,
    /// What they call themselves.
    pub applications: Vec<String>,
}

impl Cutoff {
    pub(super) async fn look(session: &mut Session, todo: &[&TablePlan]) -> Result<Self, StepError> {
        let oids: Vec<i64> = todo.iter().map(|t| t.table.oid).collect();
        // Those that requests are given by PostgREST and the like come with claims.
        let roles = sqlx::query_as!(
            RoleUse,
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
        .fetch_all(&mut session.work)
        .await?;
        let mut cutoff =
            Self { tables: todo.len(), roles, statements: Vec::new(), source: "pg_stat_activity" };
        cutoff.look_at_statements(session, todo).await?;
        Ok(cutoff)
    }

    async fn look_at_statements(
        &mut self,
        session: &mut Session,
        todo: &[&TablePlan],
    ) -> Result<(), StepError> {
        let names: Vec<String> = todo.iter().map(|t| t.table.name.clone()).collect();
        let roles: Vec<String> = self.roles.iter().map(|r| r.name.clone()).collect();
        let is_one =
            "exists (select from unnest($1::text[]) t (name) where s.query ~* ('\\m' || t.name || '\\M'))
                      and s.query !~* '\\morg_id\\M|request\\.jwt'";
        let extension = sqlx::query_scalar!(
            r#"select n.nspname::text as "schema!" from pg_extension e join pg_namespace n on n.oid = e.extnamespace
               where e.extname = 'pg_stat_statements'"#
        )
        .fetch_optional(&mut session.work)
        .await?;
        if let Some(schema) = extension {
            let query = format!(
                "select r.rolname::text, s.query, s.calls from {}.pg_stat_statements s
                 join pg_roles r on r.oid = s.userid
                 where s.dbid = (select oid from pg_database where datname = current_database())
                   and r.rolname = any ($2::text[]) and s.query ~* '^\\s*(select|insert|update|delete|merge|with|copy)\\M'
                   and {is_one} order by s.calls desc limit {STATEMENTS_MAX}",
                quoted(&schema)
            );
            // It is there in name alone where the server doesn't load it.
            if let Ok(rows) = sqlx::query_as(AssertSqlSafe(query))
                .bind(&names)
                .bind(&roles)
                .fetch_all(&mut session.work)
                .await
            {
                self.statements = rows;
                self.source = "pg_stat_statements";
                return Ok(());
            }
        }
        let query = format!(
            "select distinct s.usename::text, s.query, null::bigint from pg_stat_activity s
             where s.datname = current_database() and s.usename = any ($2::text[]) and {is_one}
             limit {STATEMENTS_MAX}"
        );
        self.statements = sqlx::query_as(AssertSqlSafe(query))
            .bind(&names)
            .bind(&roles)
            .fetch_all(&mut session.work)
            .await?;
        Ok(())
    }
}

impl fmt::Display for Cutoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "From then on {} tables show and take rows of one organisation alone: that of the",
            self.tables
        )?;
        writeln!(f, "claims (request.jwt.claims) that a transaction sets, for members of authenticated.")?;
        writeln!(f, "Superusers and roles with BYPASSRLS are not held to it. These roles are:")?;
        if self.roles.is_empty() {
            writeln!(f, "  none")?;
        }
        for role in &self.roles {
            let login = if role.can_log_in { "" } else { ", can't log in" };
            writeln!(
                f,
                "  {} ({} tables, {} sessions now{login}) {}",
                role.name,
                role.tables,
                role.sessions,
                role.applications.join(", ")
            )?;
        }
        writeln!(f, "Statements of theirs on these tables that name no org_id (from {}):", self.source)?;
        if self.statements.is_empty() {
            writeln!(f, "  none was seen")?;
        }
        for (role, text, calls) in &self.statements {
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let line: String = line.chars().take(STATEMENT_CHARACTERS_MAX).collect();
            let calls = calls.map_or(String::new(), |n| format!(", {n} times"));
            writeln!(f, "  {role}{calls}: {line}")?;
        }
        Ok(())
    }
}
