//! That one organisation's rows are found by an index. The planner is asked with sequential scans out of the
//! way, because in a small table it would rightly take one.

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::Audit;
use super::report::{Finding, Mend};

const SUBJECTS: &str = "
    select format('%I.%I', t.schema_name, t.table_name)
    from warden.tenant_tables t
    join pg_namespace n on n.nspname = t.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind = 'r'
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and a.atttypid = 'uuid'::regtype
  and a.attgenerated = '' and not a.attisdropped
    where t.scope = 'org' order by 1";

const COUNT: &str = "
    select count(*) from warden.tenant_tables t
    join pg_namespace n on n.nspname = t.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name";

impl Audit<'_> {
    pub(super) async fn judge_plans(&mut self) -> anyhow::Result<()> {
        let mut subjects: Vec<String> = Vec::new();
        let mut tables = 0;
        self.judge(&["org-plan"], None, async |connection: &mut PgConnection| {
            subjects = sqlx::query_scalar(SUBJECTS).fetch_all(&mut *connection).await?;
            tables = sqlx::query_scalar(COUNT).fetch_one(connection).await?;
            Ok(Vec::new())
        })
        .await?;
        self.tables = tables;
        for subject in &subjects {
            // Unique indexes may have to wait for that.
            let is_enforced = !self
                .findings
                .iter()
                .any(|f| f.rule == "not-enforced" && f.table.as_deref() == Some(subject));
            let mend = Mend::shell(if is_enforced { "warden migrate" } else { "warden migrate --enforce" });
            self.judge(&["org-plan"], Some(subject), async |connection: &mut PgConnection| {
                judge(connection, subject, mend).await
            })
            .await?;
        }
        Ok(())
    }
}

async fn judge(connection: &mut PgConnection, table: &str, mend: Mend) -> Result<Vec<Finding>, sqlx::Error> {
    // Plans may be looked at by a role that policies hold for.
    connection.execute(sqlx::raw_sql("set local enable_seqscan = off; set local row_security = on")).await?;
    let sql = format!(
        "explain (format json, costs off) select from {table} where org_id = 'a0000000-0000-0000-0000-000000000001'::uuid"
    );
    let plan: Value = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    if finds_by_org(&plan) {
        return Ok(Vec::new());
    }
    let cause = "no index serves `where org_id = ...`: each such query reads the whole table".to_owned();
    Ok(vec![Finding::new("org-plan", Some(table), "org_id", cause, mend)])
}

/// Whether some node of a plan uses an index with a condition on `org_id`.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_that_is_only_filtered_by_is_not_found_by_an_index() {
        let node = |key: &str| json!([{"Plan": {"Node Type": "Bitmap Heap Scan", "Plans": [{key: "(org_id = 'a'::uuid)"}]}}]);
        assert!(finds_by_org(&node("Index Cond")));
        assert!(!finds_by_org(&node("Filter")));
        assert!(!finds_by_org(
            &json!([{"Plan": {"Index Cond": "(id = 'a'::uuid)", "Filter": "(org_id = 'a'::uuid)"}}])
        ));
    }
}
