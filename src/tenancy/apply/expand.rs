//! The first phase for one table: column, filling, rows, indexes, keys, guard. Nothing that runs is broken.

use std::collections::HashSet;

use super::backfill::Quiet;
use super::session::StepError;
use super::{RUN_AGAIN, Run};
use crate::tenancy::plan::{Kind, TablePlan};
use crate::tenancy::registry::{Scope, Table};
use crate::tenancy::{Finding, literal, quoted};

/// Tables of Warden's own and of the platform, with the watch that their migrations create in an empty database. They
/// are watched last, so that the backfill emits no events.
const WATCHES: [(&str, &str); 4] = [
    ("organizations", "warden.watch('public.organizations', 'org', 'org', org_column => 'id')"),
    ("calls", "warden.watch('public.calls', 'calls', 'call', entity_topic => 'call')"),
    (
        "call_logs",
        "warden.watch('public.call_logs', 'call_logs', 'call_log', entity_topic => 'call', entity_topic_column => 'call_id')",
    ),
    (
        "recordings",
        "warden.watch('public.recordings', 'recordings', 'recording', entity_topic => 'call', entity_topic_column => 'call_id')",
    ),
];

impl Run {
    /// Whether every row of the table has its organisation afterwards; other troubles are findings alone.
    pub(super) async fn expand_table(
        &mut self,
        plan: &TablePlan,
        server_version: i32,
    ) -> Result<bool, StepError> {
        let table = &plan.table;
        if table.scope != Scope::Org {
            return Ok(true);
        }
        let title = table.title();
        let wants_filling = plan.wants_filling();
        if !plan.has(Kind::Column) || (wants_filling && !plan.has(Kind::Filling)) {
            let step = self.begin(&title, "column and filling trigger");
            let result = self.session.short(&[table.oid], &column_statements(plan)).await;
            if self.ended(&step, result, RUN_AGAIN)?.is_none() {
                return Ok(false);
            }
        }
        let quiet = self.quiet(table, server_version).await?;
        if wants_filling && !self.fill(table, quiet).await? {
            return Ok(false);
        }
        self.indexes(plan, false).await?;
        if wants_filling && !self.fill_the_rest(table, quiet, !plan.has(Kind::OrgKey)).await? {
            return Ok(false);
        }
        self.keys(plan, server_version).await?;
        if !plan.has(Kind::Guard) {
            let step = self.begin(&title, "guard of org_id");
            let guard = format!("select warden.guard_org_id({}::regclass)", literal(&table.sql()));
            let result = self.session.short(&[table.oid], &[guard]).await;
            self.ended(&step, result, RUN_AGAIN)?;
        }
        Ok(true)
    }

    /// The indexes of one phase. Of those that wait for the second one the first says already what will stand
    /// in their way.
    pub(super) async fn indexes(&mut self, plan: &TablePlan, is_second_phase: bool) -> Result<(), StepError> {
        let table = &plan.table;
        for object in plan.objects.iter().filter(|o| matches!(o.kind, Kind::Index | Kind::Unique)) {
            if (object.is_valid && !object.is_to_be_attached()) || (is_second_phase && !object.is_late) {
                continue;
            }
            if object.is_late && !is_second_phase {
                let duplicates = self.session.duplicates(table, object).await?;
                self.findings.extend(duplicates);
                continue;
            }
            let step = self.begin(&table.title(), "indexes");
            let result = self.session.index(table, object).await;
            self.ended(&step, result, "Mend the cause, or drop what is in the way; then run this again.")?;
        }
        Ok(())
    }

    async fn fill(&mut self, table: &Table, quiet: Quiet) -> Result<bool, StepError> {
        let step = self.begin(&table.title(), "filling of org_id");
        let result = self.session.fill_by_blocks(table, quiet).await;
        self.filled(&step, result)
    }

    async fn fill_the_rest(
        &mut self,
        table: &Table,
        quiet: Quiet,
        is_first: bool,
    ) -> Result<bool, StepError> {
        let step = self.begin(&table.title(), "last rows without org_id");
        let result = self.session.fill_the_rest(table, quiet, is_first).await;
        self.filled(&step, result)
    }

    /// As [`Run::ended`], but silent where there was nothing to fill.
    fn filled(&mut self, step: &super::Step, result: Result<u64, StepError>) -> Result<bool, StepError> {
        if matches!(result, Ok(0)) {
            self.session.progress.clear_wait();
            return Ok(true);
        }
        let rows = self.ended(step, result, RUN_AGAIN)?;
        if let (Some(rows), Some(last)) = (rows, self.steps.last_mut()) {
            last.rows = rows;
        }
        Ok(rows.is_some())
    }

    /// How the table's own triggers are kept out of the filling: it is no update of the application, and
    /// updated_at, say, must not jump for every row.
    pub(super) async fn quiet(&mut self, table: &Table, server_version: i32) -> Result<Quiet, StepError> {
        if table.pauses_triggers {
            return Ok(Quiet::Paused);
        }
        let may_replicate: bool = if server_version >= 150_000 {
            self.session
                .scalar("select has_parameter_privilege('session_replication_role', 'set')".to_owned())
                .await?
        } else {
            self.session
                .scalar("select rolsuper from pg_roles where rolname = current_user".to_owned())
                .await?
        };
        let firing = if may_replicate { &table.stubborn_triggers } else { &table.update_triggers };
        if !firing.is_empty() && plan_has_null(&mut self.session, table).await? {
            self.notes.push(format!(
                "{}: {}",
                table.title(),
                firing_note(&table.schema, &table.name, firing)
            ));
        }
        Ok(if may_replicate { Quiet::Replica } else { Quiet::Not })
    }

    /// Watches, for tables that are done.
    pub(super) async fn watch(&mut self, failed: &HashSet<i64>) -> Result<(), StepError> {
        let plan = self.plan().await?;
        for (name, call) in WATCHES {
            let Some(table) =
                plan.tables.iter().map(|t| &t.table).find(|t| t.is("public", name) && !t.is_from_application)
            else {
                continue;
            };
            let is_watched: bool = self
                .session
                .scalar(format!(
                    "select exists (select from warden.watches where relation::oid::bigint = {})",
                    table.oid
                ))
                .await?;
            if is_watched || failed.contains(&table.oid) {
                continue;
            }
            let step = self.begin(name, "watch");
            let result = self.session.short(&[table.oid], &[format!("select {call}")]).await;
            let remedy = format!("Its changes become no events until it fits. Then: select {call};");
            if self.ended(&step, result, &remedy)?.is_none()
                && let Some(finding) = self.findings.last_mut()
            {
                finding.is_blocking = false;
            }
        }
        Ok(())
    }
}

async fn plan_has_null(session: &mut super::Session, table: &Table) -> Result<bool, StepError> {
    session.scalar(format!("select exists (select from {} where org_id is null)", table.sql())).await
}

/// For people: which triggers see the filling, and what to do about it.
pub(in crate::tenancy) fn firing_note(schema: &str, name: &str, triggers: &[String]) -> String {
    format!(
        "its triggers {} fire while org_id is filled; to keep them out: update warden.tenant_tables set \
         pauses_triggers = true where (schema_name, table_name) = ('{schema}', '{name}');",
        triggers.join(", ")
    )
}

/// Column and trigger come in one transaction, under a lock that no writer shares: from its commit on no row
/// without org_id begins to exist.
fn column_statements(plan: &TablePlan) -> Vec<String> {
    let name = plan.table.sql();
    let mut statements = Vec::new();
    if !plan.has(Kind::Column) {
        statements.push(format!("alter table {name} add column if not exists org_id uuid"));
    }
    if plan.wants_filling() && !plan.has(Kind::Filling) {
        statements.push(format!("select warden.fill_org_id({}::regclass)", literal(&name)));
    }
    statements
}

/// A conflict of names, as a finding.
pub(super) fn is_taken(table: &Table, what: &str, name: &str, problem: &str) -> Finding {
    if problem == "does not cascade" {
        return Finding::new(
            table.title(),
            format!("{what} {name} does not cascade: rows would outlive their organisation, or hold it back"),
            format!(
                "Drop it, then run this again, which makes one that does: alter table {} drop constraint {};",
                table.sql(),
                quoted(name)
            ),
        );
    }
    let rename = match what {
        "index" => format!(
            "alter index {}.{} rename to {};",
            quoted(&table.schema),
            quoted(name),
            quoted(&format!("{name}_former"))
        ),
        _ => format!(
            "alter table {} rename constraint {} to {};",
            table.sql(),
            quoted(name),
            quoted(&format!("{name}_former"))
        ),
    };
    Finding::new(
        table.title(),
        format!("{what} {name} {problem}"),
        format!("Rename it, then run this again: {rename}"),
    )
}
