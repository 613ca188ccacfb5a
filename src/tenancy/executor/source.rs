//! From where the rows of a batch get their organisation: the statement that fills them, and the foreign keys
//! beside the one to the parent.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::tenancy::AdoptionIssue;
use crate::tenancy::registry::Table;
use crate::tenancy::sql::quoted;

/// Pattern of a uuid in a text column.
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
/// Rows without a known organisation are counted up to this number.
const COUNTED_ROWS_MAX: i64 = 1_000;

/// The rows of a batch.
#[derive(Debug)]
pub(super) enum BatchRange {
    /// Rows from one block up to, not including, another.
    Blocks(u64, u64),
    /// A number of rows without `org_id`, wherever they are.
    Any(i64),
}

/// A foreign key to another table of organisations, or to the same one, as SQL expressions about the row `t`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Reference {
    /// Whether the row references another row.
    is_set: String,
    /// The organisation of the referenced row.
    organization: String,
    /// The referencing columns, in messages.
    columns: String,
    /// The referenced table, in messages.
    target: String,
}

impl Reference {
    /// The foreign keys of a table, except the one to its parent.
    pub(super) async fn load(connection: &mut PgConnection, table: &Table) -> Result<Vec<Self>, sqlx::Error> {
        sqlx::query_as(
            "select is_set, organization, columns, target::text as target
             from warden.other_references($1::bigint::oid, 't')",
        )
        .bind(table.oid)
        .fetch_all(connection)
        .await
    }
}

/// Rows that a plan counts at most to find those that neither a parent nor a user decides.
const SEARCHED_ROWS_MAX: i64 = 100_000;

/// From where rows get their organisation if neither a parent nor a user says it, for a plan.
#[derive(Debug, Default)]
pub(in crate::tenancy) struct OtherSources {
    /// The sources, in their order.
    pub(in crate::tenancy) names: Vec<String>,
    /// Rows of the table `t` for which they decide.
    condition: String,
}

impl OtherSources {
    pub(in crate::tenancy) async fn load(
        connection: &mut PgConnection,
        table: &Table,
    ) -> Result<Self, sqlx::Error> {
        let references = Reference::load(connection, table).await?;
        let names =
            references.iter().map(|r| format!("the organisation of {} by {}", r.target, r.columns)).collect();
        let without_parent = match &table.parent {
            Some(parent) => format!("t.{} is null and ", quoted(&parent.column)),
            None => String::new(),
        };
        Ok(Self { names, condition: format!("{without_parent}{}", is_any_set(&references)) })
    }

    /// A remark about rows for which these sources decide, and which block the enforce phase if none does. It
    /// must work before the migrations, when there is neither `org_id` nor a table of memberships.
    pub(in crate::tenancy) async fn remark(
        &self,
        connection: &mut PgConnection,
        table: &Table,
    ) -> Result<Option<String>, sqlx::Error> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let has_members: bool =
            sqlx::query_scalar("select to_regclass('public.organization_members') is not null")
                .fetch_one(&mut *connection)
                .await?;
        let not_of_member = if has_members {
            format!(
                "not coalesce({} in (select m.user_id from public.organization_members m), false)",
                user_of(table)
            )
        } else {
            "true".to_owned()
        };
        let unfilled = if table.has_org_id { "t.org_id is null and " } else { "" };
        let sql = format!(
            "select count(*) from (
               select from (select * from {} limit {SEARCHED_ROWS_MAX}) t
               where {unfilled}{} and {not_of_member} limit {COUNTED_ROWS_MAX}) c",
            table.sql(),
            self.condition
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        let count = match rows {
            0 => return Ok(None),
            1 => "1 row has".to_owned(),
            COUNTED_ROWS_MAX.. => format!("{COUNTED_ROWS_MAX} rows or more have"),
            n => format!("{n} rows have"),
        };
        Ok(Some(format!(
            "{count} neither a parent nor a member as user, and reference other rows: they get the organisation of \
             those. If these lead to none, such as rows that reference each other, org_id stays null and blocks --enforce"
        )))
    }
}

/// Whether the row `t` references another one by these keys.
fn is_any_set(references: &[Reference]) -> String {
    let all: Vec<&str> = references.iter().map(|r| r.is_set.as_str()).collect();
    if all.is_empty() { "false".to_owned() } else { format!("({})", all.join(" or ")) }
}

/// The first organisation that these keys lead to.
fn referenced_org(references: &[Reference]) -> String {
    let all: Vec<&str> = references.iter().map(|r| r.organization.as_str()).collect();
    if all.is_empty() { "null::uuid".to_owned() } else { format!("coalesce({})", all.join(", ")) }
}

/// The user of the row `t`. Like the trigger, it accepts uuids in a column of another type.
fn user_of(table: &Table) -> String {
    table.user_column.as_deref().map_or("null::uuid".to_owned(), |c| {
        let column = format!("t.{}::text", quoted(c));
        format!("case when {column} ~ '{UUID}' then {column}::uuid end")
    })
}

/// Rows of which only foreign keys could say to which organisation they belong, and do not.
fn unknown_condition(table: &Table, references: &[Reference]) -> String {
    let without_parent = match &table.parent {
        Some(parent) => format!("t.{} is null and ", quoted(&parent.column)),
        None => String::new(),
    };
    format!(
        "{without_parent}not coalesce({} in (select m.user_id from public.organization_members m), false) and {} and {} \
         is null",
        user_of(table),
        is_any_set(references),
        referenced_org(references)
    )
}

/// An issue if the organisation of rows is unknown: it must not be the default one, because they reference
/// rows that will have an organisation, or that an operator must give one.
pub(super) async fn unknown(
    connection: &mut PgConnection,
    table: &Table,
    references: &[Reference],
) -> Result<Option<AdoptionIssue>, sqlx::Error> {
    if references.is_empty() {
        return Ok(None);
    }
    let condition = format!("t.org_id is null and {}", unknown_condition(table, references));
    let sql = format!(
        "select count(*) from (select from {} t where {condition} limit {COUNTED_ROWS_MAX} for key share skip locked) c",
        table.sql()
    );
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    if rows == 0 {
        return Ok(None);
    }
    let keys: Vec<String> = references.iter().map(|r| format!("{} by {}", r.target, r.columns)).collect();
    let rows = match rows {
        1 => "1 row has".to_owned(),
        COUNTED_ROWS_MAX.. => format!("{COUNTED_ROWS_MAX} rows or more have"),
        n => format!("{n} rows have"),
    };
    Ok(Some(AdoptionIssue::new(
        table.title(),
        format!("{rows} no known organisation, and reference rows without one: {}", keys.join(", ")),
        format!(
            "Give the referenced rows an organisation, then run the command again. Or give these rows one, as a \
             superuser or a role with BYPASSRLS: update {} t set org_id = '<organisation>' where {condition};",
            table.sql()
        ),
    )))
}

/// The statement that fills the rows of a batch, and returns how many rows went to which organisation.
///
/// It follows the fill trigger's rule: the parent's organisation, else that of the user's membership, else
/// that of another referenced row, else the default organisation. A row stays as it is if the row from which
/// it gets its organisation has none yet. Most users may have no membership, so the function that reads
/// memberships is called for members only.
pub(super) fn fill_statement(table: &Table, references: &[Reference], range: &BatchRange) -> String {
    let name = table.sql();
    let user = user_of(table);
    let fallback = if references.is_empty() {
        "warden.default_organization()".to_owned()
    } else {
        format!(
            "{}, case when not {} then warden.default_organization() end",
            referenced_org(references),
            is_any_set(references)
        )
    };
    let without_parent = format!(
        "coalesce(case when k.user_id in (select m.user_id from public.organization_members m)
                       then warden.default_org_for(k.user_id) end, {fallback})"
    );
    let (parent_column, parent_join, org) = match &table.parent {
        Some(parent) => (
            format!("t.{}", quoted(&parent.column)),
            format!("left join {} p on p.{} = k.parent", parent.sql(), quoted(&parent.key)),
            format!(
                "case when p.{} is null then {without_parent} else p.{} end",
                quoted(&parent.key),
                parent.org_column()
            ),
        ),
        None => ("null::uuid".to_owned(), String::new(), without_parent),
    };
    let (row_join, window) = if references.is_empty() {
        (String::new(), String::new())
    } else {
        // Rows that cannot be filled yet must not take the places of others.
        let unknown = unknown_condition(table, references);
        (format!("join only {name} t on t.ctid = k.tid"), format!("and not coalesce({unknown}, false)"))
    };
    let condition = match range {
        BatchRange::Blocks(..) => "t.ctid >= $1::text::tid and t.ctid < $2::text::tid".to_owned(),
        BatchRange::Any(_) => format!(
            "t.ctid = any (array(select t.ctid from only {name} t where t.org_id is null {window} limit $1))"
        ),
    };
    // If a unique index contains org_id, an update of it conflicts with concurrent inserts of children.
    let is_indexed = table.has_org_index || matches!(range, BatchRange::Any(_));
    let lock = if is_indexed { "update" } else { "no key update" };
    format!(
        "with picked as materialized (
           select t.ctid as tid, {user} as user_id, {parent_column} as parent
           from only {name} t where {condition} and t.org_id is null for {lock} of t skip locked),
         found as materialized (select k.tid, {org} as org_id from picked k {row_join} {parent_join}),
         filled as (
           update only {name} t set org_id = f.org_id from found f
           where t.ctid = f.tid and t.org_id is null and f.org_id is not null
           returning t.org_id)
         select org_id, count(*) from filled group by org_id"
    )
}
