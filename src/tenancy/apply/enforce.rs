//! The second phase: no row without an organisation, no row of another's to be seen. And the way back.
//!
//! What can fail comes first, and fails before anything is cut off; what cuts off is one short transaction
//! per table.

use sqlx::AssertSqlSafe;

use super::cutoff::Cutoff;
use super::keys::{not_null_check, strangers_query};
use super::session::StepError;
use super::{RUN_AGAIN, Run};
use crate::tenancy::plan::{Kind, TablePlan};
use crate::tenancy::registry::Scope;
use crate::tenancy::{Finding, literal, quoted};

impl Run {
    pub(super) async fn enforce(
        &mut self,
        confirm: impl AsyncFnOnce(&Cutoff) -> anyhow::Result<bool>,
    ) -> Result<(), StepError> {
        let plan = self.plan().await?;
        let todo: Vec<&TablePlan> = plan.tables.iter().filter(|t| !t.is_enforced()).collect();
        self.check_strangers(&todo).await?;
        if todo.is_empty() || self.is_blocked() {
            return Ok(());
        }
        let cutoff = Cutoff::look(&mut self.session, &todo).await?;
        self.session.progress.finish();
        if !confirm(&cutoff).await.map_err(StepError::Fatal)? {
            self.is_refused = true;
            return Ok(());
        }
        for table in &todo {
            self.prove_not_null(table, plan.server_version).await?;
            self.indexes(table, true).await?;
            self.parent_keys(table, plan.server_version, true).await?;
        }
        if self.is_blocked() {
            return Ok(());
        }
        for table in &todo {
            let step = self.begin(&table.table.title(), "protection");
            let result = match self.enforcing(table).await {
                Ok(statements) => self.session.short(&[table.table.oid], &statements).await,
                Err(error) => Err(error),
            };
            self.ended(&step, result, RUN_AGAIN)?;
        }
        Ok(())
    }

    /// Nobody is cut off while something is left to mend: half an application would work.
    fn is_blocked(&mut self) -> bool {
        self.is_refused |= self.findings.iter().any(|f| f.is_blocking);
        self.is_refused
    }

    /// Children of another organisation's parent, or of none, where no key has refused them so far.
    async fn check_strangers(&mut self, todo: &[&TablePlan]) -> Result<(), StepError> {
        for plan in todo {
            let Some(parent) = plan.table.parent.as_ref().filter(|_| !plan.has(Kind::ParentKey)) else {
                continue;
            };
            let query = strangers_query(&plan.table, parent);
            let bare = query.trim_end_matches(';').replacen("c.*", "", 1);
            if self.session.scalar(format!("select exists ({bare})")).await? {
                self.findings.push(Finding::new(
                    plan.table.title(),
                    "has rows whose parent does not exist, or is another organisation's",
                    format!("Give them a parent, or none, or delete them; then run this again: {query}"),
                ));
            }
        }
        Ok(())
    }

    /// A check that is added without a look and then validated blocks nobody, and lets SET NOT NULL do without
    /// a look of its own.
    async fn prove_not_null(&mut self, plan: &TablePlan, server_version: i32) -> Result<(), StepError> {
        let table = &plan.table;
        if table.scope != Scope::Org || table.is_not_null {
            return Ok(());
        }
        let step = self.begin(&table.title(), "proof that no org_id is null");
        let name: String = self.session.scalar(format!("select {}", not_null_check(table))).await?;
        let present: Option<bool> = self
            .session
            .scalar(format!(
                "select (select contype = 'c' and pg_get_constraintdef(oid) ~ '^CHECK \\(\\(org_id IS NOT NULL\\)\\)'
                         from pg_constraint where conrelid = {} and conname = {})",
                table.oid,
                literal(&name)
            ))
            .await?;
        let result = match present {
            Some(false) => Err(StepError::Conflict(Box::new(super::expand::is_taken(
                table,
                "constraint",
                &name,
                "is another one",
            )))),
            Some(true) => Ok(()),
            None => {
                let add = format!(
                    "alter table {} add constraint {} check (org_id is not null) not valid",
                    table.sql(),
                    quoted(&name)
                );
                self.session.short(&[table.oid], &[add]).await
            }
        };
        let result = match result {
            Ok(()) => self.validate_not_null(plan, &name, server_version).await,
            Err(error) => Err(error),
        };
        let remedy = format!("select * from {} where org_id is null;", table.sql());
        self.ended(&step, result, &remedy)?;
        Ok(())
    }

    async fn validate_not_null(
        &mut self,
        plan: &TablePlan,
        name: &str,
        server_version: i32,
    ) -> Result<(), StepError> {
        if plan.wants_filling() {
            // From here on none can come, so this is the last look.
            let quiet = self.quiet(&plan.table, server_version).await?;
            self.session.fill_the_rest(&plan.table, quiet, true).await?;
        }
        let validate = format!("alter table {} validate constraint {}", plan.table.sql(), quoted(name));
        self.session.long(&validate, None).await?;
        Ok(())
    }

    async fn enforcing(&mut self, plan: &TablePlan) -> Result<Vec<String>, StepError> {
        let name = plan.table.sql();
        let regclass = format!("{}::regclass", literal(&name));
        let mut statements = Vec::new();
        if plan.table.scope == Scope::Org {
            let check: String =
                self.session.scalar(format!("select {}", not_null_check(&plan.table))).await?;
            if !plan.table.is_not_null {
                statements.push(format!("alter table {name} alter column org_id set not null"));
            }
            statements.push(format!("alter table {name} drop constraint if exists {}", quoted(&check)));
            if !plan.table.is_never_filled {
                statements.push(format!("select warden.unfill_org_id({regclass})"));
            }
        }
        statements.push(format!("select warden.protect({regclass})"));
        Ok(statements)
    }

    /// One step back: the application may again know nothing of organisations. The filling is there before
    /// the protection goes, in the same transaction.
    pub(super) async fn relax(&mut self) -> Result<(), StepError> {
        let mut plan = self.plan().await?;
        self.findings.append(&mut plan.findings);
        for table in plan.tables.iter().filter(|t| t.is_enforced_in_part() && t.table.scope != Scope::User) {
            let name = table.table.sql();
            let regclass = format!("{}::regclass", literal(&name));
            let mut statements = Vec::new();
            if table.table.scope == Scope::Org && !table.table.is_never_filled {
                let check: String =
                    self.session.scalar(format!("select {}", not_null_check(&table.table))).await?;
                statements.push(format!("select warden.fill_org_id({regclass})"));
                statements.push(format!("alter table {name} alter column org_id drop not null"));
                statements.push(format!("alter table {name} drop constraint if exists {}", quoted(&check)));
            }
            statements.push(format!("select warden.unprotect({regclass})"));
            let step = self.begin(&table.table.title(), "protection removed");
            let result = self.session.short(&[table.table.oid], &statements).await;
            self.ended(&step, result, RUN_AGAIN)?;
        }
        // Proofs of an enforcing that stopped half-way.
        for table in plan.tables.iter().filter(|t| t.table.scope == Scope::Org && !t.table.is_not_null) {
            let check: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                "select conname::text from pg_constraint where conrelid = {} and contype = 'c' and conname = {}",
                table.table.oid,
                not_null_check(&table.table)
            )))
            .fetch_optional(&mut self.session.work)
            .await?;
            if let Some(check) = check {
                let step = self.begin(&table.table.title(), "proof removed");
                let drop = format!("alter table {} drop constraint {}", table.table.sql(), quoted(&check));
                let result = self.session.short(&[table.table.oid], &[drop]).await;
                self.ended(&step, result, RUN_AGAIN)?;
            }
        }
        Ok(())
    }
}
