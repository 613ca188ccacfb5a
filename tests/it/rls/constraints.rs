//! Checks of keys, guards and indexes. They apply to `service_role` too, which bypasses row-level security.

use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::actors::{Actor, Reach, claims_of};
use super::attempts::{CHECK_FAILED, DUPLICATE, NO_PARENT, NULL_VALUE, Outcome};
use super::check::Check;
use crate::harness::tenancy::{Insert, candidates, quote};

impl Check<'_> {
    /// Checks constraints, triggers and indexes as `service_role`, which bypasses row-level security. The
    /// quickest checks come first, for those that stop at the first failure.
    pub async fn check_schema(&mut self) {
        let service = Actor {
            name: "service_role".into(),
            role: "service_role".into(),
            claims: String::new(),
            reach: Reach::Own,
        };
        let service = Some(&service);
        let own_insert = self.fixture().own.clone();
        let outcome = self.attempt(service, "", &own_insert.sql()).await;
        if outcome != Outcome::Rows(1) {
            self.fail("service_role", "insert", &outcome);
        }
        if self.is_done() || self.table.scope.as_deref() != Some("org") {
            return;
        }
        self.check_indexes().await;
        if self.is_done() {
            return;
        }
        let table = self.table.name.clone();
        let outcome = self.attempt(service, "", &own_insert.with("org_id", "null").sql()).await;
        if !outcome.is_rejected_with(NULL_VALUE) {
            self.fail("service_role", "insert without an organisation", &outcome);
        }
        if self.table.has_default && !self.is_done() {
            self.check_missing_organization(&own_insert).await;
        }
        let own_row = self.row(&self.fixture().own_key.clone());
        if self.table.is_immutable {
            let moves = format!("update {table} set org_id = '{}' where {own_row}", self.tenants.other.org);
            let outcome = self.attempt(service, "", &moves).await;
            let is_guard = matches!(&outcome, Outcome::Rejected { code, message, .. }
                if code == CHECK_FAILED && message.contains("org_id of ") && message.contains("cannot be changed"));
            if !is_guard {
                self.fail("service_role", "move to another organisation", &outcome);
            }
        }
        if !self.is_done() {
            self.check_uniques(service, &own_insert).await;
        }
        if !self.is_done() {
            self.check_foreign_key_to_organizations(service, &own_insert).await;
        }
        if !self.is_done() {
            self.check_references(service).await;
        }
        if !self.is_done() {
            self.check_children().await;
        }
    }

    /// Checks the default of `org_id`, and that both the trigger and NOT NULL reject a row without it.
    async fn check_missing_organization(&mut self, own_insert: &Insert) {
        let table = self.table.name.clone();
        let bound = Actor {
            name: "service_role with claims".into(),
            role: "service_role".into(),
            claims: claims_of(self.tenants.own).to_string(),
            reach: Reach::Own,
        };
        let outcome = self.attempt(Some(&bound), "", &own_insert.with("org_id", "default").sql()).await;
        if outcome != Outcome::Rows(1) {
            self.fail(&bound.name, "insert without naming org_id", &outcome);
        }
        let without = own_insert.with("org_id", "null").sql();
        let outcome = self.attempt(Some(&bound), "", &without).await;
        if !matches!(&outcome, Outcome::Rejected { message, .. } if message.starts_with("warden: the new row of"))
        {
            self.fail(&bound.name, "the explanation of a missing organisation", &outcome);
        }
        let silent = format!("alter table {table} disable trigger warden_require_org_id;");
        let outcome = self.attempt(Some(&bound), &silent, &without).await;
        if !outcome.is_rejected_with(NULL_VALUE) {
            self.fail(&bound.name, "NOT NULL without the trigger", &outcome);
        }
    }

    /// Checks that rows belong to existing organisations and are deleted with them. The composite keys are
    /// dropped first, because they could enforce the same.
    async fn check_foreign_key_to_organizations(&mut self, service: Option<&Actor>, own_insert: &Insert) {
        let table = self.table.name.clone();
        let drops: String = self
            .table
            .foreign_keys
            .iter()
            .filter(|f| f.is_between_orgs)
            .map(|f| format!("alter table {table} drop constraint if exists {};", quote(&f.name)))
            .collect();
        let nobody = own_insert.with("org_id", "'00000000-0000-0000-0000-00000000dead'");
        let outcome = self.attempt(service, &drops, &nobody.sql()).await;
        if !outcome.is_rejected_with(NO_PARENT) {
            self.fail("service_role", "insert for an organisation that does not exist", &outcome);
        }
        let gone = format!("{drops} delete from public.organizations where id = '{}';", self.tenants.own.org);
        let own_row = self.row(&self.fixture().own_key.clone());
        let outcome = self.attempt(None, &gone, &format!("select from {table} where {own_row}")).await;
        if outcome != Outcome::Rows(0) {
            self.fail("service_role", "rows of an organisation that was deleted", &outcome);
        }
    }

    /// Checks that rows of another organisation cannot reference this table's rows.
    async fn check_children(&mut self) {
        let schema = self.schema;
        for child in schema.registered() {
            if child
                .foreign_keys
                .iter()
                .any(|f| f.is_between_orgs && f.parent == self.table.name && child.name != f.parent)
            {
                let mut check = Check::new(self.connection, schema, child, self.tenants);
                match check.prepare().await {
                    Ok(()) => check.check_references(None).await,
                    Err(error) => check.failures.push(error),
                }
                let failures = check.failures;
                self.failures.extend(failures);
            }
        }
    }

    /// Checks that a unique key is rejected a second time within one organisation.
    async fn check_uniques(&mut self, service: Option<&Actor>, own_insert: &Insert) {
        let table = self.table;
        for unique in &table.uniques {
            let mut first = own_insert.clone();
            let mut second = own_insert.clone();
            if !table.primary_key.iter().all(|c| unique.columns.contains(c)) {
                for column in &table.primary_key {
                    second = second.without(column);
                    first = first.without(column);
                }
            }
            for column in unique.columns.iter().filter(|c| !own_insert.values.contains_key(*c)) {
                let value = candidates(table, table.column(column)).swap_remove(0);
                first = first.with(column, value.clone());
                second = second.with(column, value);
            }
            // Generated values such as ids differ at each evaluation, so both rows get one fixed value.
            for column in &unique.columns {
                if first.values[column].contains("gen_random_uuid()") {
                    let same = format!("'{}'", Uuid::new_v4());
                    first = first.with(column, same.clone());
                    second = second.with(column, same);
                }
            }
            let outcome = self.attempt(service, &format!("{};", first.sql()), &second.sql()).await;
            if !outcome.is_rejected_with(DUPLICATE) {
                self.fail("service_role", &format!("{}: the same twice", unique.name), &outcome);
            }
        }
    }

    /// Checks that each index returns the organisation's rows in its order.
    async fn check_indexes(&mut self) {
        for index in &self.table.indexes {
            let sql = format!(
                "explain (costs off) select from {} where org_id = '{}' order by {}",
                self.table.name, self.tenants.own.org, index.columns
            );
            let steer = "savepoint plan; set local enable_seqscan = off; set local enable_sort = off;
                         set local enable_bitmapscan = off; set local enable_incremental_sort = off";
            self.connection.execute(sqlx::raw_sql(steer)).await.expect("steers");
            let plan =
                sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&mut *self.connection).await;
            self.connection
                .execute(sqlx::raw_sql("rollback to plan; release plan"))
                .await
                .expect("rolls back");
            let plan = plan.map_or_else(|e| e.to_string(), |lines| lines.join("\n"));
            let is_used = plan.contains(&format!("using {} on", index.name))
                || plan.contains(&format!("using {} on", quote(&index.name)));
            if !is_used {
                self.failures.push(format!("{}: {} is not used: {plan}", self.table.name, index.name));
            }
        }
    }
}
