//! Indexes, built concurrently with writers. An interrupted build leaves an invalid index behind, which is
//! dropped before the next attempt.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};

use super::conflict::conflict;
use super::connection::{ExecutorConnection, StepError, is_transient};
use super::tree::TreeLock;
use crate::backoff::Backoff;
use crate::tenancy::AdoptionIssue;
use crate::tenancy::plan::{ObjectKind, RequiredObject, TablePlan};
use crate::tenancy::registry::Table;
use crate::tenancy::sql::{literal, quoted};

/// Time after which a build is no longer retried. Deadlocks with other long transactions are retried.
pub(crate) const RETRY_MAX: Duration = Duration::from_mins(10);
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Longest time for dropping the index of a cancelled build. After that the next run drops it.
const CLEAN_UP_MAX_MS: u64 = 10_000;

/// Progress of a build, as one line of text.
const BUILD_PROGRESS: &str = "
    select case when p.current_locker_pid <> 0
      then format('waiting for the transaction of pid %s (%s) since %s', p.current_locker_pid,
                  coalesce(nullif(a.application_name, ''), 'unnamed'),
                  coalesce(to_char(a.xact_start, 'HH24:MI:SS'), '?'))
      else p.phase || case when p.blocks_total > 0 then format(', %s %%', p.blocks_done * 100 / p.blocks_total) else '' end end
    from pg_stat_progress_create_index p left join pg_stat_activity a on a.pid = p.current_locker_pid
    where p.pid = $1";

impl ExecutorConnection {
    /// Builds an index, or a unique constraint.
    pub(super) async fn index(&mut self, table: &Table, object: &RequiredObject) -> Result<(), StepError> {
        if object.lacks_constraint() {
            return self.add_constraint(table, object).await;
        }
        let is_left_over = object.found.as_deref() == Some(&object.name) && object.problem == "is not valid";
        if object.found.is_some() && !is_left_over && object.found.as_deref() == Some(&object.name) {
            let kind = if object.kind == ObjectKind::Unique { "constraint" } else { "index" };
            return Err(StepError::Conflict(Box::new(conflict(table, kind, &object.name, &object.problem))));
        }
        if object.is_unique
            && object.kind == ObjectKind::Index
            && let Some(issue) = self.duplicates(table, object).await?
        {
            return Err(StepError::Conflict(Box::new(issue)));
        }
        let begun = Instant::now();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.drop_left_over(table, &object.name).await?;
            let built =
                self.long(&create_statement(table, object, "concurrently "), Some(BUILD_PROGRESS)).await;
            let Err(error) = built else { break };
            if !matches!(error, StepError::Fatal(_)) {
                self.clean_up(table, &object.name).await;
            }
            if !is_transient(error.code()) || begun.elapsed() > RETRY_MAX {
                return Err(error);
            }
            self.pause(backoff.next()).await?;
        }
        if object.kind == ObjectKind::Unique && !object.is_constraint {
            return self.add_constraint(table, object).await;
        }
        Ok(())
    }

    /// Creates the index of a partitioned table. Its partitions have equivalent indexes, which become parts
    /// of it, so this is a short step.
    pub(super) async fn partitioned_index(
        &mut self,
        plan: &TablePlan,
        object: &RequiredObject,
    ) -> Result<(), StepError> {
        if object.found.as_deref() == Some(&object.name) {
            let issue = conflict(&plan.table, "index", &object.name, &object.problem);
            return Err(StepError::Conflict(Box::new(issue)));
        }
        let create = create_statement(&plan.table, object, "");
        self.short_on(plan, TreeLock::ShareRowExclusive, &[], &[create]).await
    }

    /// The issue for rows that violate a unique index, if there are any.
    pub(super) async fn duplicates(
        &mut self,
        table: &Table,
        object: &RequiredObject,
    ) -> Result<Option<AdoptionIssue>, StepError> {
        let names: Vec<String> = columns(object).into_iter().map(|(c, _)| c).collect();
        let query = duplicates_query(table, &names);
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select to_jsonb(d)::text from ({query} limit 3) d")))
                .fetch_all(&mut self.work)
                .await?;
        Ok((!rows.is_empty()).then(|| {
            AdoptionIssue::new(
                table.title(),
                format!(
                    "index {}: ({}) is not unique, e.g. {}",
                    object.name,
                    names.join(", "),
                    rows.join(" ")
                ),
                format!("Merge or change these rows, then run the command again: {query};"),
            )
        }))
    }

    /// Adds a constraint that uses the index. This is a short step.
    async fn add_constraint(&mut self, table: &Table, object: &RequiredObject) -> Result<(), StepError> {
        let name = quoted(&object.name);
        let add = format!("alter table {} add constraint {name} unique using index {name}", table.sql());
        self.short(&[table.oid], &[add]).await
    }

    async fn drop_left_over(&mut self, table: &Table, name: &str) -> Result<(), StepError> {
        if self.is_left_over(table, name).await? {
            self.long(&drop_statement(table, name), None).await?;
        }
        Ok(())
    }

    async fn is_left_over(&mut self, table: &Table, name: &str) -> Result<bool, StepError> {
        self.scalar(format!(
            "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
                            where i.indrelid = {} and c.relname = {} and not i.indisvalid)",
            table.oid,
            literal(name)
        ))
        .await
    }

    /// Drops the index of a failed or cancelled build: it costs writers time, and may reject rows. This is
    /// also attempted while the run stops. If it fails, the next run begins with it.
    async fn clean_up(&mut self, table: &Table, name: &str) {
        let limit = format!("set statement_timeout = {CLEAN_UP_MAX_MS}");
        let _ = self.work.execute(sqlx::raw_sql(AssertSqlSafe(limit))).await;
        // It must be an invalid index of this table: another table's index of that name is the application's.
        if let Ok(true) = self.is_left_over(table, name).await {
            let _ = self.work.execute(sqlx::raw_sql(AssertSqlSafe(drop_statement(table, name)))).await;
        }
        let _ = self.work.execute("set statement_timeout = 0").await;
    }
}

fn drop_statement(table: &Table, name: &str) -> String {
    format!("drop index concurrently if exists {}.{}", quoted(&table.schema), quoted(name))
}

/// The columns of a definition: their names, and whether they are in descending order.
fn columns(object: &RequiredObject) -> Vec<(String, bool)> {
    let list = object
        .definition
        .strip_prefix("unique ")
        .map_or(object.definition.as_str(), |rest| rest.trim().trim_start_matches('(').trim_end_matches(')'));
    list.split(", ")
        .map(|column| {
            let (name, is_descending) = match column.strip_suffix(" desc") {
                Some(name) => (name, true),
                None => (column, false),
            };
            let bare = name.strip_prefix('"').and_then(|n| n.strip_suffix('"'));
            (bare.map_or(name.to_owned(), |n| n.replace("\"\"", "\"")), is_descending)
        })
        .collect()
}

/// A query for the duplicates of a future key.
fn duplicates_query(table: &Table, columns: &[String]) -> String {
    let names: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
    let not_null: Vec<String> = names.iter().map(|c| format!("{c} is not null")).collect();
    format!(
        "select {list}, count(*) as rows from {} where {} group by {list} having count(*) > 1",
        table.sql(),
        not_null.join(" and "),
        list = names.join(", ")
    )
}

fn create_statement(table: &Table, object: &RequiredObject, how: &str) -> String {
    let columns = columns(object).into_iter();
    let list: Vec<String> = columns.map(|(c, down)| quoted(&c) + if down { " desc" } else { "" }).collect();
    format!(
        "create {}index {how}{} on {} ({})",
        if object.is_unique { "unique " } else { "" },
        quoted(&object.name),
        table.sql(),
        list.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: ObjectKind, definition: &str) -> RequiredObject {
        RequiredObject {
            kind,
            name: "n".into(),
            definition: definition.into(),
            is_unique: kind == ObjectKind::Unique,
            found: None,
            is_valid: false,
            problem: String::new(),
            is_constraint: false,
            is_late: false,
        }
    }

    #[test]
    fn columns_are_parsed_from_definitions() {
        let found = columns(&object(ObjectKind::Unique, "unique (org_id, \"Odd \"\"name\")"));
        assert_eq!(found, [("org_id".to_owned(), false), ("Odd \"name".to_owned(), false)]);
        let found = columns(&object(ObjectKind::Index, "org_id, created_at desc"));
        assert_eq!(found, [("org_id".to_owned(), false), ("created_at".to_owned(), true)]);
    }
}
