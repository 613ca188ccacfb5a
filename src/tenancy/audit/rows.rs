//! Rules about the rows themselves. Each row has an organisation, this organisation exists, and the row's
//! parent has the same one. If a valid and enabled constraint guarantees a rule, only a deep audit reads the
//! rows.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::remedy::{Choice, Remedy, RemedyKind};
use super::report::Finding;
use super::{Audit, COUNTED_ROWS_MAX};

/// A table, and the constraints that guarantee its rows.
#[derive(sqlx::FromRow)]
struct AuditedTable {
    full_name: String,
    is_not_null: bool,
    has_org_key: bool,
    parent: Option<String>,
    parent_column: Option<String>,
    parent_key: Option<String>,
    has_parent: bool,
    has_parent_key: bool,
    is_parent_optional: bool,
    organizations_have_names: bool,
}

const RULES: &[&str] = &["null-rows", "unknown-organizations", "parent-rows"];

impl Audit<'_> {
    pub(super) async fn check_rows(&mut self) -> anyhow::Result<()> {
        let mut tables: Vec<AuditedTable> = Vec::new();
        self.check(RULES, None, async |connection: &mut PgConnection| {
            tables = sqlx::query_as(include_str!("sql/rows.sql")).fetch_all(connection).await?;
            Ok(Vec::new())
        })
        .await?;
        for table in &tables {
            for (rule, check) in table.checks(self.options.is_deep) {
                self.check(&[rule], Some(&table.full_name), async |connection: &mut PgConnection| {
                    check.run(connection, rule, &table.full_name).await
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// A query for rows that must not exist.
struct RowCheck {
    /// The query after `select count(*) from`. The rows are named `c`.
    from: String,
    cause: &'static str,
    remedy: Remedy,
}

impl AuditedTable {
    fn checks(&self, is_deep: bool) -> Vec<(&'static str, RowCheck)> {
        let table = &self.full_name;
        let mut checks = Vec::new();
        if is_deep || !self.is_not_null {
            checks.push((
                "null-rows",
                RowCheck {
                    from: format!("{table} c where c.org_id is null"),
                    cause: "no organisation (org_id is null)",
                    remedy: Remedy::shell("warden migrate"),
                },
            ));
        }
        if is_deep || !self.has_org_key {
            let from = format!(
                "{table} c where c.org_id is not null and not exists (select from public.organizations o where o.id = c.org_id)"
            );
            checks.push((
                "unknown-organizations",
                RowCheck {
                    remedy: unknown_organizations(&from, self.organizations_have_names),
                    from,
                    cause: "an organisation that does not exist",
                },
            ));
        }
        if let (Some(parent), Some(column), Some(key), true) =
            (&self.parent, &self.parent_column, &self.parent_key, self.has_parent)
            && (is_deep || !self.has_parent_key)
        {
            checks.extend(parent_checks(table, parent, column, key, self.is_parent_optional));
        }
        checks
    }
}

fn unknown_organizations(from: &str, organizations_have_names: bool) -> Remedy {
    let (column, name) = if organizations_have_names { (", name", ", 'Restored'") } else { ("", "") };
    let insert =
        format!("insert into public.organizations (id{column}) select distinct c.org_id{name} from {from};");
    Remedy::decide(
        format!("what are these rows? (select c.* from {from};)"),
        vec![
            Choice::new("rows of a deleted organisation", RemedyKind::Sql, &format!("delete from {from};")),
            Choice::new("rows of organisations that must exist again", RemedyKind::Sql, &insert),
        ],
    )
}

fn parent_checks(
    table: &str,
    parent: &str,
    column: &str,
    key: &str,
    is_parent_optional: bool,
) -> Vec<(&'static str, RowCheck)> {
    // Row-level security may hide organisations from this role, and the column says enough.
    let names_organization = parent == "public.organizations" && key == "id";
    let is_elsewhere = if names_organization {
        format!("c.{column} <> c.org_id")
    } else {
        let org = if parent == "public.organizations" { "id" } else { "org_id" };
        format!("exists (select from {parent} p where p.{key} = c.{column} and p.{org} <> c.org_id)")
    };
    let is_orphan =
        format!("c.{column} is not null and not exists (select from {parent} p where p.{key} = c.{column})");
    let check = |condition: &str, cause: &'static str| {
        let from = format!("{table} c where {condition}");
        let mut choices = vec![Choice::new("the row", RemedyKind::Sql, &format!("delete from {from};"))];
        if is_parent_optional {
            let update = format!("update {table} c set {column} = null where {condition};");
            choices.push(Choice::new("the reference", RemedyKind::Sql, &update));
        }
        let remedy = Remedy::decide(format!("what is wrong, and goes? (select c.* from {from};)"), choices);
        ("parent-rows", RowCheck { from, cause, remedy })
    };
    let mut checks = vec![check(&is_elsewhere, "an organisation other than their parent's")];
    if !names_organization {
        checks.push(check(&is_orphan, "a parent that does not exist"));
    }
    checks
}

impl RowCheck {
    async fn run(
        &self,
        connection: &mut PgConnection,
        rule: &'static str,
        table: &str,
    ) -> Result<Vec<Finding>, sqlx::Error> {
        let limit = COUNTED_ROWS_MAX + 1;
        let sql = format!("select count(*) from (select from {} limit {limit}) r", self.from);
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let rows = match rows {
            1 => "1 row has".to_owned(),
            n if n > COUNTED_ROWS_MAX => format!("more than {COUNTED_ROWS_MAX} rows have"),
            n => format!("{n} rows have"),
        };
        let cause = format!("{rows} {}", self.cause);
        Ok(vec![Finding::new(rule, Some(table), "org_id", cause, self.remedy.clone())])
    }
}
