//! Rows of which nothing says to which organisation they belong. They get the default organisation only if
//! the operator chose it: otherwise rows of different tenants could end up in one organisation, for good.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::AdoptionIssue;
use super::registry::{Scope, Table};
use super::sql::quoted;

/// Pattern of a uuid in a text column.
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
/// Rows without a known organisation are counted up to this number.
pub(super) const COUNTED_ROWS_MAX: i64 = 1_000;
/// Rows that are searched at most before a run, for those of which nothing says where they belong.
pub(super) const SEARCHED_ROWS_MAX: i64 = 100_000;

/// The choices of the operator.
pub(super) const CHOICES: &str = "\
If their users have organisations: insert the memberships into public.organization_members, then run the command again.
If another table has the organisations: docs/tenancy.md, \"Tenants of another name\".
If a column or a parent says it: --tables '<table> user_column=...' or '<table> parent=... parent_column=...'.
If the application has a single organisation, or these rows belong to the default one: add --default-organization.";

/// Beginning of the problem of the issue about such rows.
const PROBLEM: &str = "nothing says to which organisation their rows belong";

/// Rows of one table.
#[derive(Debug, Clone)]
pub(super) struct Undecided {
    /// The table's oid.
    pub(super) oid: i64,
    table: Table,
    /// Whether the row `t` references another one that may say it.
    is_referencing: String,
}

impl Undecided {
    /// The rows of a table, unless the operator chose the default organisation for them.
    pub(super) fn of(table: &Table, is_referencing: &str) -> Option<Self> {
        let is_filled = table.scope == Scope::Org && !table.is_never_filled && !table.is_not_null;
        (is_filled && !table.fills_with_default).then(|| Self {
            oid: table.oid,
            table: table.clone(),
            is_referencing: is_referencing.to_owned(),
        })
    }

    /// How many there are among the first rows, and why; None if there are none. It must work before the
    /// migrations, when there is neither `org_id` nor a table of memberships.
    pub(super) async fn describe(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<String>, sqlx::Error> {
        let table = &self.table;
        let mut conditions = vec![no_member(&mut *connection, table).await?];
        let mut join = String::new();
        if let Some(parent) = &table.parent
            && exists(&mut *connection, &parent.sql()).await?
        {
            let key = quoted(&parent.key);
            join = format!("left join {} p on p.{key} = t.{}", parent.sql(), quoted(&parent.column));
            conditions.push(format!("p.{key} is null"));
        }
        if table.has_org_id {
            conditions.push("t.org_id is null".to_owned());
        }
        let sql = format!(
            "select count(*) from (
               select from (select * from {} limit {SEARCHED_ROWS_MAX}) t {join}
               where {} and not {} limit {COUNTED_ROWS_MAX}) c",
            table.sql(),
            conditions.join(" and "),
            self.is_referencing
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        let rows = match rows {
            0 => return Ok(None),
            1 => "1 row".to_owned(),
            COUNTED_ROWS_MAX.. => format!("{COUNTED_ROWS_MAX} rows or more"),
            n => format!("{n} rows"),
        };
        Ok(Some(format!("{}: {rows}, {}", table.title(), why(table))))
    }
}

/// The issue about rows of these tables, each described.
pub(super) fn issue(tables: &[String]) -> Option<AdoptionIssue> {
    let names: Vec<&str> = tables.iter().filter_map(|t| t.split(": ").next()).collect();
    (!tables.is_empty()).then(|| {
        AdoptionIssue::new(
            names.join(", "),
            format!(
                "{PROBLEM}. Warden would put them all into the default organisation\n  {}",
                tables.join("\n  ")
            ),
            CHOICES,
        )
    })
}

/// Whether an issue only asks whether rows belong to the default organisation.
#[must_use]
pub fn is_question(issue: &AdoptionIssue) -> bool {
    issue.problem.starts_with(PROBLEM)
}

/// Why nothing says to which organisation rows of a table belong.
pub(super) fn why(table: &Table) -> String {
    let parent = table.parent.as_ref().map(|p| format!("{} names no row of {}", p.column, p.name));
    let user =
        table.user_column.as_ref().map(|column| format!("{column} names no member of an organisation"));
    let reasons: Vec<String> = [parent, user].into_iter().flatten().collect();
    if reasons.is_empty() { "without org_id".to_owned() } else { reasons.join(", and ") }
}

/// "3 rows have"; None for no rows.
pub(super) fn count_of(rows: i64) -> Option<String> {
    match rows {
        0 => None,
        1 => Some("1 row has".to_owned()),
        COUNTED_ROWS_MAX.. => Some(format!("{COUNTED_ROWS_MAX} rows or more have")),
        n => Some(format!("{n} rows have")),
    }
}

/// Whether the user of the row `t` is a member of no organisation.
pub(super) async fn no_member(connection: &mut PgConnection, table: &Table) -> Result<String, sqlx::Error> {
    if table.user_column.is_none() || !exists(connection, "public.organization_members").await? {
        return Ok("true".to_owned());
    }
    let user = user_of(table);
    Ok(format!("not coalesce({user} in (select m.user_id from public.organization_members m), false)"))
}

async fn exists(connection: &mut PgConnection, relation: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(relation).fetch_one(connection).await
}

/// The user of the row `t`. Like the trigger, it accepts uuids in a column of another type.
pub(super) fn user_of(table: &Table) -> String {
    table.user_column.as_deref().map_or("null::uuid".to_owned(), |c| {
        let column = format!("t.{}::text", quoted(c));
        format!("case when {column} ~ '{UUID}' then {column}::uuid end")
    })
}
