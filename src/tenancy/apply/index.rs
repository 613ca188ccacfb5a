//! Indexes, built while writers write. An index whose building was interrupted stays behind invalid: it is
//! dropped first.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};

use super::expand::is_taken;
use super::session::{Session, StepError, is_transient};
use crate::backoff::Backoff;
use crate::tenancy::plan::{Kind, Object};
use crate::tenancy::registry::Table;
use crate::tenancy::{Finding, literal, quoted};

/// Deadlocks with other long transactions are tried again for so long.
const TRIES_MAX: Duration = Duration::from_mins(10);
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A cancelled build is cleaned up for so long; if that does not do, the next run does it.
const CLEAN_UP_MAX_MS: u64 = 10_000;

/// How far the server is, in words.
const LOOK: &str = "
    select case when p.current_locker_pid <> 0
      then format('waiting for the transaction of pid %s (%s) since %s', p.current_locker_pid,
                  coalesce(nullif(a.application_name, ''), 'unnamed'),
                  coalesce(to_char(a.xact_start, 'HH24:MI:SS'), '?'))
      else p.phase || case when p.blocks_total > 0 then format(', %s %%', p.blocks_done * 100 / p.blocks_total) else '' end end
    from pg_stat_progress_create_index p left join pg_stat_activity a on a.pid = p.current_locker_pid
    where p.pid = $1";

impl Session {
    /// Makes an index or a unique constraint.
    pub(super) async fn index(&mut self, table: &Table, object: &Object) -> Result<(), StepError> {
        if object.is_to_be_attached() {
            return self.attach(table, object).await;
        }
        let is_left_over = object.found.as_deref() == Some(&object.name) && object.problem == "is not valid";
        if object.found.is_some() && !is_left_over && object.found.as_deref() == Some(&object.name) {
            let what = if object.kind == Kind::Unique { "constraint" } else { "index" };
            return Err(StepError::Conflict(Box::new(is_taken(table, what, &object.name, &object.problem))));
        }
        let columns = columns(object);
        if object.is_unique
            && object.kind == Kind::Index
            && let Some(finding) = self.duplicates(table, object).await?
        {
            return Err(StepError::Conflict(Box::new(finding)));
        }
        let begun = Instant::now();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            self.drop_left_over(table, &object.name).await?;
            let built = self.long(&create_statement(table, object, &columns), Some(LOOK)).await;
            let Err(error) = built else { break };
            if !matches!(error, StepError::Fatal(_)) {
                self.clean_up(table, &object.name).await;
            }
            if !is_transient(error.code()) || begun.elapsed() > TRIES_MAX {
                return Err(error);
            }
            self.pause(backoff.next()).await?;
        }
        if object.kind == Kind::Unique { self.attach(table, object).await } else { Ok(()) }
    }

    /// Rows that stand in the way of a unique index.
    pub(super) async fn duplicates(
        &mut self,
        table: &Table,
        object: &Object,
    ) -> Result<Option<Finding>, StepError> {
        let names: Vec<String> = columns(object).into_iter().map(|(c, _)| c).collect();
        let query = duplicates_query(table, &names);
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select to_jsonb(d)::text from ({query} limit 3) d")))
                .fetch_all(&mut self.work)
                .await?;
        Ok((!rows.is_empty()).then(|| {
            Finding::new(
                table.title(),
                format!(
                    "index {}: ({}) is not unique, e.g. {}",
                    object.name,
                    names.join(", "),
                    rows.join(" ")
                ),
                format!("Merge or change these rows, then run this again: {query};"),
            )
        }))
    }

    /// Makes the index a constraint: this is a short step.
    async fn attach(&mut self, table: &Table, object: &Object) -> Result<(), StepError> {
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

    /// A build that failed or was cancelled leaves an index that costs writers time, and may refuse rows.
    /// It goes at once where that is possible, also while stopping; what is not is the next run's first step.
    async fn clean_up(&mut self, table: &Table, name: &str) {
        let limit = format!("set statement_timeout = {CLEAN_UP_MAX_MS}");
        let _ = self.work.execute(sqlx::raw_sql(AssertSqlSafe(limit))).await;
        // Of this table and invalid: an index of another that has the name is the application's.
        if let Ok(true) = self.is_left_over(table, name).await {
            let _ = self.work.execute(sqlx::raw_sql(AssertSqlSafe(drop_statement(table, name)))).await;
        }
        let _ = self.work.execute("set statement_timeout = 0").await;
    }
}

fn drop_statement(table: &Table, name: &str) -> String {
    format!("drop index concurrently if exists {}.{}", quoted(&table.schema), quoted(name))
}

/// The columns of a definition: names, and whether they descend.
fn columns(object: &Object) -> Vec<(String, bool)> {
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

/// Shows the duplicates of a would-be key.
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

fn create_statement(table: &Table, object: &Object, columns: &[(String, bool)]) -> String {
    let list: Vec<String> =
        columns.iter().map(|(c, down)| quoted(c) + if *down { " desc" } else { "" }).collect();
    format!(
        "create {}index concurrently {} on {} ({})",
        if object.is_unique { "unique " } else { "" },
        quoted(&object.name),
        table.sql(),
        list.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, definition: &str) -> Object {
        Object {
            kind,
            name: "n".into(),
            definition: definition.into(),
            is_unique: kind == Kind::Unique,
            found: None,
            is_valid: false,
            problem: String::new(),
            is_constraint: false,
            is_late: false,
        }
    }

    #[test]
    fn columns_are_read_from_definitions() {
        let found = columns(&object(Kind::Unique, "unique (org_id, \"Odd \"\"name\")"));
        assert_eq!(found, [("org_id".to_owned(), false), ("Odd \"name".to_owned(), false)]);
        let found = columns(&object(Kind::Index, "org_id, created_at desc"));
        assert_eq!(found, [("org_id".to_owned(), false), ("created_at".to_owned(), true)]);
    }
}
