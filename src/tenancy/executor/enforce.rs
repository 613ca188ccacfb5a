//! The enforce phase: every row must have an organisation, and no request sees rows of another organisation.
//! This module also reverses the phase.
//!
//! Steps that can fail come first, so they fail before any role loses access. Access is lost in one short
//! transaction per table.

use super::AdoptionRun;
use super::conflict::conflict;
use super::connection::StepError;
use super::impact::EnforcementImpact;
use super::keys::mismatch_query;
use super::tree::TreeLock;
use crate::tenancy::AdoptionIssue;
use crate::tenancy::access::questions;
use crate::tenancy::issue::RUN_AGAIN;
use crate::tenancy::plan::{ObjectKind, Plan, TablePlan};
use crate::tenancy::registry::{Parent, Scope, Table};
use crate::tenancy::sql::{literal, quoted};

impl AdoptionRun {
    pub(super) async fn enforce(
        &mut self,
        confirm: impl AsyncFnOnce(&EnforcementImpact) -> anyhow::Result<bool>,
    ) -> Result<(), StepError> {
        let plan = self.plan().await?;
        let todo: Vec<&TablePlan> = plan.tables.iter().filter(|t| !t.is_enforced()).collect();
        self.check_parents(&todo, &plan.tables).await?;
        self.issues.extend(questions(&mut self.connection.work, &plan.tables).await?);
        if todo.is_empty() || self.is_blocked() {
            return Ok(());
        }
        let impact = EnforcementImpact::read(&mut self.connection, &todo).await?;
        self.connection.progress.finish();
        if !confirm(&impact).await.map_err(StepError::Fatal)? {
            self.is_declined = true;
            return Ok(());
        }
        for table in &todo {
            self.check_not_null(table, plan.server_version).await?;
            self.check_organization_column(table).await?;
            self.indexes(table, true).await?;
            self.parent_keys(table, plan.server_version, true).await?;
        }
        if self.is_blocked() {
            return Ok(());
        }
        for table in &todo {
            // Members first: no policy of the whole applies to a statement that names a member.
            for member in &table.members {
                self.protect_member(member).await?;
            }
            let step = self.begin(&table.table.title(), "row-level security");
            let result = match self.protect_statements(table).await {
                Ok(statements) => {
                    self.connection.short_on(table, TreeLock::AccessExclusive, &[], &statements).await
                }
                Err(error) => Err(error),
            };
            self.end(&step, result, RUN_AGAIN)?;
        }
        Ok(())
    }

    /// Whether an open issue blocks enforcement. Partial enforcement would break half of the application.
    fn is_blocked(&mut self) -> bool {
        self.is_declined |= self.issues.iter().any(|issue| issue.is_blocking);
        self.is_declined
    }

    /// Reports children whose parent does not exist or belongs to another organisation, if no key has
    /// rejected them so far. No key compares `org_id` with a column that names the organisation itself. A
    /// table that an issue kept from getting `org_id` is not checked.
    async fn check_parents(&mut self, todo: &[&TablePlan], tables: &[TablePlan]) -> Result<(), StepError> {
        for plan in todo {
            let is_unchecked = |p: &&Parent| p.names_organization() || !plan.has(ObjectKind::ParentKey);
            let Some(parent) = plan.table.parent.as_ref().filter(is_unchecked) else { continue };
            let lacks_column = |t: &TablePlan| !t.has(ObjectKind::Column);
            if lacks_column(plan) || tables.iter().any(|t| t.table.oid == parent.oid && lacks_column(t)) {
                continue;
            }
            let query = mismatch_query(&plan.table, parent);
            let bare = query.trim_end_matches(';').replacen("c.*", "", 1);
            if self.connection.scalar(format!("select exists ({bare})")).await? {
                self.issues.push(AdoptionIssue::new(
                    plan.table.title(),
                    "has rows whose parent does not exist, or belongs to another organisation",
                    format!(
                        "Give them another parent, or none, or delete them; then run the command again: {query}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Adds and validates a check that `org_id` is not null. Adding it NOT VALID and validating it later
    /// blocks no writer, and a validated check lets SET NOT NULL skip its own scan.
    async fn check_not_null(&mut self, plan: &TablePlan, server_version: i32) -> Result<(), StepError> {
        let table = &plan.table;
        if table.scope != Scope::Org || table.is_not_null {
            return Ok(());
        }
        let step = self.begin(&table.title(), "not-null check");
        let (name, is_own) = self.not_null_check(table).await?;
        let added = match is_own {
            Some(false) => Err(StepError::Conflict(Box::new(conflict(
                table,
                "constraint",
                &name,
                "is another constraint",
            )))),
            Some(true) => Ok(()),
            None => {
                let add = format!(
                    "alter table {} add constraint {} check (org_id is not null) not valid",
                    table.sql(),
                    quoted(&name)
                );
                self.connection.short_on(plan, TreeLock::AccessExclusive, &[], &[add]).await
            }
        };
        let result = match added {
            Ok(()) => self.validate_not_null(plan, &name, server_version).await,
            Err(error) => Err(error),
        };
        let remedy = format!("select * from {} where org_id is null;", table.sql());
        self.end(&step, result, &remedy)?;
        Ok(())
    }

    async fn validate_not_null(
        &mut self,
        plan: &TablePlan,
        name: &str,
        server_version: i32,
    ) -> Result<(), StepError> {
        if plan.needs_fill() {
            // The check rejects new rows without org_id, so this is the last backfill.
            let triggers = self.trigger_mode(&plan.table, server_version).await?;
            for part in plan.storing() {
                self.connection.fill_remaining(&part.table, triggers, true).await?;
            }
        }
        let validate = format!("alter table {} validate constraint {}", plan.table.sql(), quoted(name));
        self.connection.long(&validate, None).await?;
        Ok(())
    }

    /// Adds and validates the check that a column which names the organisation itself equals `org_id`.
    async fn check_organization_column(&mut self, plan: &TablePlan) -> Result<(), StepError> {
        if !plan.table.parent.as_ref().is_some_and(Parent::names_organization) {
            return Ok(());
        }
        for part in plan.storing() {
            let name = part.table.sql();
            let add = format!("select warden.check_organization_column({}::regclass)", literal(&name));
            let step = self.begin(&part.table.title(), "check of the organisation");
            let mut result = self.connection.short_on(part, TreeLock::AccessExclusive, &[], &[add]).await;
            let is_added = format!(
                "select exists (select from pg_constraint where conrelid = {}::regclass
                                and conname = 'warden_org_id_parent' and not convalidated)",
                literal(&name)
            );
            if result.is_ok() && self.connection.scalar(is_added).await? {
                let validate = format!("alter table {name} validate constraint warden_org_id_parent");
                result = self.connection.long(&validate, None).await.map(drop);
            }
            self.end(&step, result, RUN_AGAIN)?;
        }
        Ok(())
    }

    async fn protect_statements(&mut self, plan: &TablePlan) -> Result<Vec<String>, StepError> {
        let name = plan.table.sql();
        let regclass = format!("{}::regclass", literal(&name));
        let mut statements = Vec::new();
        if plan.table.scope == Scope::Org {
            if !plan.table.is_not_null {
                statements.push(format!("alter table {name} alter column org_id set not null"));
            }
            statements.extend(self.drop_not_null_check(&plan.table).await?);
            if !plan.table.is_never_filled {
                statements.push(format!("select warden.unfill_org_id({regclass})"));
            }
        }
        // Earlier, the default would take the place of the fill trigger, which knows the parent.
        statements.extend(repair_statements(&plan.table));
        if !plan.members.is_empty() {
            // A member may be newer than the plan. From now on the event trigger protects new ones.
            statements.push(format!("select warden.protect_members({regclass})"));
        }
        Ok(statements)
    }

    /// Repairs the policies of tables that were enforced before: they depend on the table's owner and on the
    /// version of Warden.
    pub(super) async fn repair(&mut self) -> Result<(), StepError> {
        let plan = self.plan().await?;
        for plan in plan.tables.iter().flat_map(TablePlan::tree).filter(|t| t.needs_repair()) {
            let step = self.begin(&plan.table.title(), "policies repaired");
            let statements = repair_statements(&plan.table);
            let result = self.connection.short(&[plan.table.oid], &statements).await;
            self.end(&step, result, RUN_AGAIN)?;
        }
        Ok(())
    }

    /// Reverses the enforce phase: applications that do not know `org_id` work again. The fill trigger is
    /// created before the protection is removed, in the same transaction.
    pub(super) async fn relax(&mut self) -> Result<(), StepError> {
        let plan = self.plan().await?;
        self.issues.extend(plan.issues.iter().cloned());
        for table in plan.tables.iter().filter(|t| t.is_partly_enforced() && t.table.scope != Scope::User) {
            let name = table.table.sql();
            let regclass = format!("{}::regclass", literal(&name));
            let mut statements = Vec::new();
            if table.table.scope == Scope::Org && !table.table.is_never_filled {
                statements.push(format!("select warden.release_org_id({regclass})"));
                statements.push(format!("select warden.fill_org_id({regclass})"));
                statements.push(format!("alter table {name} alter column org_id drop not null"));
                statements.extend(self.drop_not_null_check(&table.table).await?);
            }
            statements.push(format!("select warden.unprotect({regclass})"));
            let step = self.begin(&table.table.title(), "row-level security removed");
            let result = self.connection.short_on(table, TreeLock::AccessExclusive, &[], &statements).await;
            self.end(&step, result, RUN_AGAIN)?;
            for member in &table.members {
                let unprotect =
                    format!("select warden.unprotect({}::regclass)", literal(&member.table.sql()));
                let step = self.begin(&member.table.title(), "row-level security removed");
                let result = self.connection.short(&[member.table.oid], &[unprotect]).await;
                self.end(&step, result, RUN_AGAIN)?;
            }
        }
        self.drop_not_null_checks(&plan).await
    }

    /// Drops the not-null checks of an enforcement that was interrupted.
    async fn drop_not_null_checks(&mut self, plan: &Plan) -> Result<(), StepError> {
        for table in plan.tables.iter().filter(|t| t.table.scope == Scope::Org && !t.table.is_not_null) {
            if let Some(drop) = self.drop_not_null_check(&table.table).await? {
                let step = self.begin(&table.table.title(), "not-null check removed");
                let result = self.connection.short_on(table, TreeLock::AccessExclusive, &[], &[drop]).await;
                self.end(&step, result, RUN_AGAIN)?;
            }
        }
        Ok(())
    }

    /// The statement that drops a table's not-null check, if the check exists. A constraint of that name with
    /// another definition belongs to the application.
    async fn drop_not_null_check(&mut self, table: &Table) -> Result<Option<String>, StepError> {
        let (name, is_own) = self.not_null_check(table).await?;
        let drop = || format!("alter table {} drop constraint {}", table.sql(), quoted(&name));
        Ok((is_own == Some(true)).then(drop))
    }

    /// The name of a table's not-null check, and whether the constraint of that name is the check; none if no
    /// constraint has the name. From PostgreSQL 18 on, NOT NULL itself is a constraint and is called
    /// `<table>_org_id_not_null`, so the check has another name.
    async fn not_null_check(&mut self, table: &Table) -> Result<(String, Option<bool>), StepError> {
        let name: String = self
            .connection
            .scalar(format!("select warden.object_name({}, 'org_id_present')", literal(&table.name)))
            .await?;
        let is_own = self
            .connection
            .scalar(format!(
                "select (select contype = 'c' and pg_get_constraintdef(oid) ~ '^CHECK \\(\\(org_id IS NOT NULL\\)\\)'
                         from pg_constraint where conrelid = {} and conname = {})",
                table.oid,
                literal(&name)
            ))
            .await?;
        Ok((name, is_own))
    }
}

/// Statements that create what is missing of a table's policies, default and trigger, after its rows have an
/// organisation.
fn repair_statements(table: &Table) -> Vec<String> {
    let regclass = format!("{}::regclass", literal(&table.sql()));
    let mut statements = Vec::new();
    if table.scope == Scope::Org && !table.is_never_filled {
        statements.push(format!("select warden.require_org_id({regclass})"));
    }
    statements.push(format!("select warden.protect({regclass})"));
    statements
}
