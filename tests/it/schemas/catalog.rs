//! The state of a database: its catalogs, and the rows of its tables.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row as _};

use crate::harness::TestDb;

/// The catalogs that a change of the schema or of a right would change.
const CATALOGS: [&str; 17] = [
    "pg_class",
    "pg_attribute",
    "pg_attrdef",
    "pg_proc",
    "pg_constraint",
    "pg_trigger",
    "pg_policy",
    "pg_rewrite",
    "pg_namespace",
    "pg_type",
    "pg_index",
    "pg_default_acl",
    "pg_description",
    "pg_inherits",
    "pg_event_trigger",
    "pg_extension",
    "pg_sequence",
];

/// A fingerprint of the catalogs. It contains the transaction that wrote each entry, so a change that was
/// reversed is found too.
pub async fn fingerprint(db: &TestDb) -> BTreeMap<&'static str, String> {
    let mut found = BTreeMap::new();
    for catalog in CATALOGS {
        let sql = format!(
            "select count(*)::text || ' ' || md5(coalesce(string_agg(xmin::text || ctid::text, ' '
             order by ctid), '')) from pg_catalog.{catalog}"
        );
        let value: String =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&db.pool).await.expect("reads a catalog");
        found.insert(catalog, value);
    }
    found
}

/// A row: the member of the tree that stores it, its organisation, and a digest of all other columns.
pub type RowState = (String, Option<String>, String);

/// The rows of these tables, in a stable order.
pub async fn rows(db: &TestDb, tables: &[String]) -> BTreeMap<String, Vec<RowState>> {
    let mut found = BTreeMap::new();
    for table in tables {
        let sql = format!(
            "select tableoid::regclass::text as member, to_jsonb(t.*) ->> 'org_id' as org,
                    md5((to_jsonb(t.*) - 'org_id')::text) as digest from {table} t order by 3, 2, 1"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads a table");
        let rows = rows.iter().map(|row| (row.get("member"), row.get("org"), row.get("digest"))).collect();
        found.insert(table.clone(), rows);
    }
    found
}

/// Rows without their organisation.
pub fn contents(rows: &BTreeMap<String, Vec<RowState>>) -> BTreeMap<&str, Vec<(&str, &str)>> {
    rows.iter()
        .map(|(table, rows)| {
            let mut bare: Vec<_> = rows.iter().map(|(m, _, digest)| (digest.as_str(), m.as_str())).collect();
            bare.sort_unstable();
            (table.as_str(), bare)
        })
        .collect()
}
