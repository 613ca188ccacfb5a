//! The expand phase of one table: column and triggers, backfill, indexes, keys. It breaks no running
//! application.

use std::collections::HashSet;

use super::AdoptionRun;
use super::backfill::TriggerMode;
use super::connection::{ExecutorConnection, StepError};
use super::tree::TreeLock;
use crate::tenancy::issue::RUN_AGAIN;
use crate::tenancy::plan::{IncompleteTree, ObjectKind, TablePlan};
use crate::tenancy::registry::{Scope, Table};
use crate::tenancy::sql::literal;

/// Tables of Warden's own and of the platform, with the watch that their migrations create in an empty
/// database. They are watched last, so that the backfill emits no events.
const WATCHES: [(&str, &str); 4] = [
    ("organizations", "warden.watch_organizations()"),
    ("calls", "warden.watch('public.calls', 'calls', 'call', entity_topic => 'call')"),
    (
        "call_logs",
        "warden.watch('public.call_logs', 'call_logs', 'call_log',
                      entity_topic => 'call', entity_topic_column => 'call_id')",
    ),
    (
        "recordings",
        "warden.watch('public.recordings', 'recordings', 'recording',
                      entity_topic => 'call', entity_topic_column => 'call_id')",
    ),
];

impl AdoptionRun {
    /// Expands one table. Returns whether every row has its organisation; other problems are issues only.
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
        let needs_fill = plan.needs_fill();
        let statements = column_statements(plan);
        if !statements.is_empty() {
            let step = self.begin(&title, "column and triggers");
            let result = self.connection.short_on(plan, TreeLock::AccessExclusive, &[], &statements).await;
            if self.end(&step, result, RUN_AGAIN)?.is_none() {
                return Ok(false);
            }
        }
        let triggers = self.trigger_mode(table, server_version).await?;
        for part in plan.storing().filter(|_| needs_fill) {
            if !self.fill(&part.table, triggers).await? {
                return Ok(false);
            }
        }
        self.indexes(plan, false).await?;
        for part in plan.storing().filter(|_| needs_fill) {
            let is_first = !part.has(ObjectKind::OrgKey);
            if !self.fill_remaining(&part.table, triggers, is_first).await? {
                return Ok(false);
            }
        }
        self.keys(plan, server_version).await?;
        self.note_new_members(plan).await?;
        Ok(true)
    }

    /// Notes that nothing protects new members at once, because the role may not create event triggers.
    async fn note_new_members(&mut self, plan: &TablePlan) -> Result<(), StepError> {
        let is_needed = "select not exists (select from pg_event_trigger
                          where evtname = 'warden_protect_members' and evtenabled in ('O', 'A'))";
        if !plan.members.is_empty() && self.connection.scalar(is_needed.to_owned()).await? {
            self.notes.push(format!(
                "{}: this role may not create the event trigger that protects new partitions. After you create one, \
                 run: select warden.protect_members({});",
                plan.table.title(),
                literal(&plan.table.sql())
            ));
        }
        Ok(())
    }

    /// Completes members that were created while no event trigger protected them.
    pub(super) async fn complete_members(&mut self, failed: &HashSet<i64>) -> Result<(), StepError> {
        for tree in IncompleteTree::load(&mut self.connection.work).await? {
            if failed.contains(&tree.oid) {
                continue;
            }
            let step = self.begin(&tree.title, "new members");
            let protect = format!("select warden.protect_members({}::regclass)", literal(&tree.full_name));
            let result = self.connection.short(&tree.member_oids, &[protect]).await;
            self.end(&step, result, RUN_AGAIN)?;
        }
        Ok(())
    }

    /// Renews fill triggers of tables that reference one which got its `org_id` later in this run.
    pub(super) async fn renew_filling(&mut self) -> Result<(), StepError> {
        let renewed = "select count(*) from warden.renew_filling()";
        let renewed: i64 = self.connection.scalar(renewed.to_owned()).await?;
        if renewed > 0 {
            self.known_plan = None;
        }
        Ok(())
    }

    /// Protects one partition or inheritance child.
    pub(super) async fn protect_member(&mut self, member: &TablePlan) -> Result<(), StepError> {
        let step = self.begin(&member.table.title(), "row-level security");
        let protect = format!("select warden.protect({}::regclass)", literal(&member.table.sql()));
        let result = self.connection.short(&[member.table.oid], &[protect]).await;
        self.end(&step, result, RUN_AGAIN)?;
        Ok(())
    }

    /// Builds the indexes of one phase: those of a partitioned table on each partition, then on the whole.
    pub(super) async fn indexes(
        &mut self,
        plan: &TablePlan,
        is_enforce_phase: bool,
    ) -> Result<(), StepError> {
        let issues = self.issues.len();
        for part in plan.storing() {
            self.indexes_of(part, is_enforce_phase).await?;
        }
        if plan.table.is_partitioned && self.issues.len() == issues {
            self.indexes_of(plan, is_enforce_phase).await?;
        }
        Ok(())
    }

    /// Builds the indexes of one table. The expand phase already reports rows that will violate the unique
    /// indexes of the enforce phase.
    async fn indexes_of(&mut self, plan: &TablePlan, is_enforce_phase: bool) -> Result<(), StepError> {
        let table = &plan.table;
        let is_index = |kind| matches!(kind, ObjectKind::Index | ObjectKind::Unique);
        for object in plan.objects.iter().filter(|o| is_index(o.kind)) {
            if (object.is_valid && !object.lacks_constraint()) || (is_enforce_phase && !object.is_late) {
                continue;
            }
            if object.is_late && !is_enforce_phase {
                if table.is_partitioned {
                    continue;
                }
                let duplicates = self.connection.duplicates(table, object).await?;
                self.issues.extend(duplicates);
                continue;
            }
            let step = self.begin(&table.title(), "indexes");
            let result = if table.is_partitioned {
                self.connection.partitioned_index(plan, object).await
            } else {
                self.connection.index(table, object).await
            };
            self.end(
                &step,
                result,
                "Remove the cause, or drop the object with that name; then run the command again.",
            )?;
        }
        Ok(())
    }

    async fn fill(&mut self, table: &Table, triggers: TriggerMode) -> Result<bool, StepError> {
        let step = self.begin(&table.title(), "backfill");
        let result = self.connection.fill_by_blocks(table, triggers).await;
        self.end_fill(&step, result, table)
    }

    async fn fill_remaining(
        &mut self,
        table: &Table,
        triggers: TriggerMode,
        is_first: bool,
    ) -> Result<bool, StepError> {
        let step = self.begin(&table.title(), "remaining rows");
        let result = self.connection.fill_remaining(table, triggers, is_first).await;
        self.end_fill(&step, result, table)
    }

    /// Like [`AdoptionRun::end`], but silent if no row was filled.
    fn end_fill(
        &mut self,
        step: &super::Step,
        result: Result<u64, StepError>,
        table: &Table,
    ) -> Result<bool, StepError> {
        if matches!(result, Ok(0)) {
            self.connection.progress.clear_wait();
            return Ok(true);
        }
        let remedy = match &result {
            Err(error) if error.lacks_replica_identity() => format!(
                "A publication replicates its updates, and it has no primary key. Until its rows are filled: \
                 alter table {0} replica identity full;\n\
                 Afterwards: alter table {0} replica identity default;",
                table.sql()
            ),
            _ => RUN_AGAIN.to_owned(),
        };
        let rows = self.end(step, result, &remedy)?;
        if let (Some(rows), Some(last)) = (rows, self.steps.last_mut()) {
            last.rows = rows;
        }
        Ok(rows.is_some())
    }

    /// How the backfill treats the table's own triggers. They should not fire: the backfill is not an update
    /// of the application, and must not change `updated_at` on every row, for example.
    pub(super) async fn trigger_mode(
        &mut self,
        table: &Table,
        server_version: i32,
    ) -> Result<TriggerMode, StepError> {
        if table.pauses_triggers {
            return Ok(TriggerMode::Disabled);
        }
        let may_replicate: bool = if server_version >= 150_000 {
            self.connection
                .scalar("select has_parameter_privilege('session_replication_role', 'set')".to_owned())
                .await?
        } else {
            self.connection
                .scalar("select rolsuper from pg_roles where rolname = current_user".to_owned())
                .await?
        };
        let firing = if may_replicate { &table.always_triggers } else { &table.update_triggers };
        if !firing.is_empty() && has_null(&mut self.connection, table).await? {
            self.notes.push(format!(
                "{}: {}",
                table.title(),
                firing_note(&table.schema, &table.name, firing)
            ));
        }
        Ok(if may_replicate { TriggerMode::Replica } else { TriggerMode::Firing })
    }

    /// Watches the tables that are adopted.
    pub(super) async fn watch(&mut self, failed: &HashSet<i64>) -> Result<(), StepError> {
        let plan = self.plan().await?;
        for (name, call) in WATCHES {
            // A table of that name which the operator registered is not the platform's.
            let is_known = |t: &&Table| t.is("public", name) && !t.is_from_application;
            let Some(whole) = plan.tables.iter().find(|t| is_known(&&t.table)) else {
                continue;
            };
            let table = &whole.table;
            let is_watched: bool = self
                .connection
                .scalar(format!(
                    "select exists (select from warden.watches where relation::oid::bigint = {})",
                    table.oid
                ))
                .await?;
            if is_watched || failed.contains(&table.oid) {
                continue;
            }
            let step = self.begin(name, "watch");
            let watch = [format!("select {call}")];
            let result = self.connection.short_on(whole, TreeLock::ShareRowExclusive, &[], &watch).await;
            let remedy =
                format!("Until this is resolved, its changes emit no events. Then run: select {call};");
            if self.end(&step, result, &remedy)?.is_none()
                && let Some(issue) = self.issues.last_mut()
            {
                issue.is_blocking = false;
            }
        }
        Ok(())
    }
}

/// Whether a row has no organisation. In a table that the role may not read as a whole, as after a restore of
/// an enforced one, the column is NOT NULL.
async fn has_null(connection: &mut ExecutorConnection, table: &Table) -> Result<bool, StepError> {
    let may_have: bool = connection
        .scalar(format!(
            "select coalesce((select not attnotnull and not row_security_active(attrelid) from pg_attribute
                              where attrelid = {} and attname = 'org_id' and not attisdropped), false)",
            table.oid
        ))
        .await?;
    if !may_have {
        return Ok(false);
    }
    connection.scalar(format!("select exists (select from {} where org_id is null)", table.sql())).await
}

/// A note about fill triggers that followed the rule of an earlier version.
pub(in crate::tenancy) fn renewal_note(table: &str) -> String {
    format!(
        "{table}: the triggers that give new rows their organisation are renewed: the parent's, else that of the user's \
         membership, else that of another referenced row, else the default one"
    )
}

/// A note that names the triggers which fire during the backfill, and says how to disable them.
pub(in crate::tenancy) fn firing_note(schema: &str, name: &str, triggers: &[String]) -> String {
    format!(
        "its triggers {} fire during the backfill; to disable them for each batch: update warden.tenant_tables set \
         pauses_triggers = true where (schema_name, table_name) = ('{schema}', '{name}');",
        triggers.join(", ")
    )
}

/// Adds column and triggers in one transaction, under a lock that excludes writers. So after its commit no
/// row without `org_id` can be inserted, and no request can choose or change the organisation of a row.
fn column_statements(plan: &TablePlan) -> Vec<String> {
    let name = plan.table.sql();
    let mut statements = Vec::new();
    if !plan.has(ObjectKind::Column) {
        statements.push(format!("alter table {name} add column if not exists org_id uuid"));
    }
    if plan.needs_fill() && !plan.has_throughout(ObjectKind::FillTrigger) {
        statements.push(format!("select warden.fill_org_id({}::regclass)", literal(&name)));
    }
    if !plan.has_throughout(ObjectKind::ImmutabilityTrigger) {
        statements.push(format!("select warden.guard_org_id({}::regclass)", literal(&name)));
    }
    statements
}
