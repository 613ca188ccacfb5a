//! The rule that an index finds the rows of one organisation. The planner is asked with sequential scans
//! disabled, because for a small table a sequential scan is the right choice.

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::Audit;
use super::remedy::Remedy;
use super::report::Finding;

const TABLES: &str = "
    select format('%I.%I', t.schema_name, t.table_name)
    from warden.tenant_tables t
    join pg_namespace n on n.nspname = t.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and a.atttypid = 'uuid'::regtype
      and a.attgenerated = '' and not a.attisdropped
    where t.scope = 'org' and not exists (select from pg_inherits i where i.inhrelid = c.oid) order by 1";

const COUNT: &str = "
    select count(*) from warden.tenant_tables t
    join pg_namespace n on n.nspname = t.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name";

impl Audit<'_> {
    pub(super) async fn check_plans(&mut self) -> anyhow::Result<()> {
        let mut tables: Vec<String> = Vec::new();
        let mut count = 0;
        self.check(&["org-plan"], None, async |connection: &mut PgConnection| {
            tables = sqlx::query_scalar(TABLES).fetch_all(&mut *connection).await?;
            count = sqlx::query_scalar(COUNT).fetch_one(connection).await?;
            Ok(Vec::new())
        })
        .await?;
        self.tables = count;
        for table in &tables {
            // Unique indexes may wait for the enforce phase.
            let is_enforced =
                !self.findings.iter().any(|f| f.rule == "not-enforced" && f.table.as_deref() == Some(table));
            let command = if is_enforced { "warden migrate" } else { "warden migrate --enforce" };
            self.check(&["org-plan"], Some(table), async |connection: &mut PgConnection| {
                check(connection, table, Remedy::shell(command)).await
            })
            .await?;
        }
        Ok(())
    }
}

async fn check(
    connection: &mut PgConnection,
    table: &str,
    remedy: Remedy,
) -> Result<Vec<Finding>, sqlx::Error> {
    // A role that is subject to policies may read plans.
    connection.execute(sqlx::raw_sql("set local enable_seqscan = off; set local row_security = on")).await?;
    let sql = format!(
        "explain (format json, costs off) select from {table} where org_id = 'a0000000-0000-0000-0000-000000000001'::uuid"
    );
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    if finds_by_org(&plan) || reads_nothing(&plan) {
        return Ok(Vec::new());
    }
    let cause = "no index serves `where org_id = ...`: each such query reads the whole table".to_owned();
    Ok(vec![Finding::new("org-plan", Some(table), "org_id", cause, remedy)])
}

/// Whether a node of the plan uses an index with a condition on `org_id`.
fn finds_by_org(plan: &Value) -> bool {
    match plan {
        Value::Array(nodes) => nodes.iter().any(finds_by_org),
        Value::Object(node) => {
            node.get("Index Cond")
                .and_then(Value::as_str)
                .is_some_and(|condition| condition.contains("org_id ="))
                || node.values().any(finds_by_org)
        }
        _ => false,
    }
}

/// Whether no node of the plan reads a table, as of a partitioned table without partitions.
fn reads_nothing(plan: &Value) -> bool {
    match plan {
        Value::Array(nodes) => nodes.iter().all(reads_nothing),
        Value::Object(node) => !node.contains_key("Relation Name") && node.values().all(reads_nothing),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_condition_is_not_an_index_condition() {
        let node = |key: &str| json!([{"Plan": {"Node Type": "Bitmap Heap Scan", "Plans": [{key: "(org_id = 'a'::uuid)"}]}}]);
        assert!(finds_by_org(&node("Index Cond")));
        assert!(!finds_by_org(&node("Filter")));
        assert!(!finds_by_org(
            &json!([{"Plan": {"Index Cond": "(id = 'a'::uuid)", "Filter": "(org_id = 'a'::uuid)"}}])
        ));
    }

    #[test]
    fn a_table_without_partitions_needs_no_index() {
        assert!(reads_nothing(&json!([{"Plan": {"Node Type": "Result", "One-Time Filter": "false"}}])));
        let scan = json!({"Node Type": "Seq Scan", "Relation Name": "logs"});
        assert!(!reads_nothing(&json!([{"Plan": {"Node Type": "Append", "Plans": [scan]}}])));
    }
}
