//! Objects of the application that have the name of one that Warden will create on a registered table.

use std::collections::HashMap;

use serde_json::json;
use sqlx::postgres::PgConnection;

use crate::tenancy::plan::{ObjectKind, Plan, TablePlan};

/// An object of the application that has the name of one of Warden's.
#[derive(Debug, sqlx::FromRow)]
struct Clash {
    oid: i64,
    object: String,
    definition: String,
    own: Option<String>,
    rename: String,
}

/// Triggers, policies, constraints and indexes of the application that have the name of one of Warden's, on
/// the tables of the plan and their members, by table: the problem and the choices.
pub(in crate::tenancy) async fn clashes(
    connection: &mut PgConnection,
    plan: &Plan,
) -> Result<HashMap<i64, Vec<(String, String)>>, sqlx::Error> {
    let rows: Vec<Clash> = sqlx::query_as(include_str!("sql/clashes.sql"))
        .bind(sqlx::types::Json(nameable(plan)))
        .fetch_all(connection)
        .await?;
    let mut clashes: HashMap<i64, Vec<(String, String)>> = HashMap::new();
    for clash in rows {
        clashes.entry(clash.oid).or_default().push((clash.problem(), clash.choices()));
    }
    Ok(clashes)
}

/// The objects of the plan whose names an object of the application can have.
fn nameable(plan: &Plan) -> Vec<serde_json::Value> {
    let mut objects = Vec::new();
    for table in plan.tables.iter().flat_map(TablePlan::tree) {
        for object in &table.objects {
            let kind = match object.kind {
                ObjectKind::Index => "index",
                ObjectKind::Unique => "unique",
                ObjectKind::OrgKey | ObjectKind::ParentKey => "foreign_key",
                ObjectKind::Protection => "policy",
                _ => continue,
            };
            objects.push(json!({
                "relation": table.table.oid, "kind": kind, "name": object.name, "definition": object.definition,
                "is_unique": object.is_unique, "problem": object.problem,
            }));
        }
    }
    objects
}

impl Clash {
    /// Both definitions.
    fn problem(&self) -> String {
        let Self { object, definition, own, .. } = self;
        let own = own.as_ref().map_or(String::new(), |own| format!("\nWarden's:\n  {own}"));
        format!(
            "{object} has a name of Warden's, and Warden did not create it\nthe application's:\n  {definition}{own}"
        )
    }

    fn choices(&self) -> String {
        format!(
            "Rename it: {}\nor leave the table to the application: remove it from warden.tenant_tables.",
            self.rename
        )
    }
}
