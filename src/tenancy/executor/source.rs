//! From where the rows of a batch get their organisation: the statement that fills them, and the foreign keys
//! beside the one to the parent.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::tenancy::AdoptionIssue;
use crate::tenancy::registry::Table;
use crate::tenancy::sql::quoted;
use crate::tenancy::undecided::{self, COUNTED_ROWS_MAX, SEARCHED_ROWS_MAX, Undecided, count_of, user_of};

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
    /// Whether every row references another one, which then decides before the row's user.
    is_required: bool,
}

impl Reference {
    /// The foreign keys of a table, except the one to its parent.
    pub(super) async fn load(connection: &mut PgConnection, table: &Table) -> Result<Vec<Self>, sqlx::Error> {
        sqlx::query_as(
            "select is_set, organization, columns, target::text as target, is_required
             from warden.other_references($1::bigint::oid, 't')",
        )
        .bind(table.oid)
        .fetch_all(connection)
        .await
    }
}

/// From where rows get their organisation if neither a parent nor a user says it, for a plan.
#[derive(Debug, Default)]
pub(in crate::tenancy) struct OtherSources {
    /// The rows that each row must reference: they decide before the user.
    pub(in crate::tenancy) required: Vec<String>,
    /// The other sources, in their order.
    pub(in crate::tenancy) names: Vec<String>,
    /// Rows of which nothing may say to which organisation they belong.
    pub(in crate::tenancy) undecided: Option<Undecided>,
    /// Rows of the table `t` for which these sources decide.
    condition: String,
}

impl OtherSources {
    /// Whether only a parent and a user may say it.
    pub(in crate::tenancy) fn is_empty(&self) -> bool {
        self.required.is_empty() && self.names.is_empty()
    }

    pub(in crate::tenancy) async fn load(
        connection: &mut PgConnection,
        table: &Table,
    ) -> Result<Self, sqlx::Error> {
        let references = Reference::load(connection, table).await?;
        let names = |is_required: bool| {
            let some = references.iter().filter(move |r| r.is_required == is_required);
            some.map(|r| format!("the organisation of {} by {}", r.target, r.columns)).collect()
        };
        let (required, names) = (names(true), names(false));
        let without_parent = match &table.parent {
            Some(parent) => format!("t.{} is null and ", quoted(&parent.column)),
            None => String::new(),
        };
        let undecided = Undecided::of(table, &is_any_set(&references));
        Ok(Self {
            required,
            names,
            undecided,
            condition: format!("{without_parent}{}", is_any_set(&references)),
        })
    }

    /// A remark about rows for which these sources decide, and which block the enforce phase if none does. It
    /// must work before the migrations, when there is neither `org_id` nor a table of memberships.
    pub(in crate::tenancy) async fn remark(
        &self,
        connection: &mut PgConnection,
        table: &Table,
    ) -> Result<Option<String>, sqlx::Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let no_member = undecided::no_member(&mut *connection, table).await?;
        let unfilled = if table.has_org_id { "t.org_id is null and " } else { "" };
        let sql = format!(
            "select count(*) from (
               select from (select * from {} limit {SEARCHED_ROWS_MAX}) t
               where {unfilled}{} and {no_member} limit {COUNTED_ROWS_MAX}) c",
            table.sql(),
            self.condition
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        Ok(count_of(rows).map(|count| {
            format!(
                "{count} neither a parent nor a member as user, and reference other rows: they get the organisation of \
                 those. If these lead to none, such as rows that reference each other, org_id stays null and blocks --enforce"
            )
        }))
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

/// The organisation of a row, null if nothing says it. `p` is the row's parent; `user` is an expression.
fn organization(table: &Table, references: &[Reference], user: &str) -> String {
    let default = if table.fills_with_default { "warden.default_organization()" } else { "null::uuid" };
    let fallback = if references.is_empty() {
        default.to_owned()
    } else {
        format!("{}, case when not {} then {default} end", referenced_org(references), is_any_set(references))
    };
    // Most users may have no membership, so the function that reads memberships is called for members only.
    let by_user = format!(
        "coalesce(case when {user} in (select m.user_id from public.organization_members m)
                       then warden.default_org_for({user}) end, {fallback})"
    );
    let required: Vec<&str> =
        references.iter().filter(|r| r.is_required).map(|r| r.organization.as_str()).collect();
    // The first one that is not the default organisation, null if one of the rows has none yet.
    let without_parent = if required.is_empty() {
        by_user
    } else {
        format!(
            "(select case when not q.are_known then null when q.org_id is not null then q.org_id else {by_user} end
              from (select bool_and(u.org_id is not null) as are_known,
                      (array_agg(u.org_id order by u.n) filter (where u.org_id <> warden.default_organization()))[1] as org_id
                    from unnest(array[{}]) with ordinality u (org_id, n) offset 0) q)",
            required.join(", ")
        )
    };
    match &table.parent {
        Some(parent) => format!(
            "case when p.{} is null then {without_parent} else p.{} end",
            quoted(&parent.key),
            parent.org_column()
        ),
        None => without_parent,
    }
}

/// The join of a row with its parent `p`, which `column` references.
fn parent_join(table: &Table, column: &str) -> String {
    table.parent.as_ref().map_or(String::new(), |parent| {
        format!("left join {} p on p.{} = {column}", parent.sql(), quoted(&parent.key))
    })
}

/// The parent column of the row `t`.
fn parent_of(table: &Table) -> String {
    table.parent.as_ref().map_or("null::uuid".to_owned(), |parent| format!("t.{}", quoted(&parent.column)))
}

/// An issue if nothing says to which organisation rows belong. An operator must: they go to the default one
/// only if the operator chose it.
pub(super) async fn unknown(
    connection: &mut PgConnection,
    table: &Table,
    references: &[Reference],
) -> Result<Option<AdoptionIssue>, sqlx::Error> {
    let sql = format!(
        "select count(*) from (select from {} t {} where t.org_id is null and {} is null limit {COUNTED_ROWS_MAX}
                               for key share of t skip locked) c",
        table.sql(),
        parent_join(table, &parent_of(table)),
        organization(table, references, &user_of(table))
    );
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let Some(count) = count_of(rows) else { return Ok(None) };
    let keys: Vec<String> = references.iter().map(|r| format!("{} by {}", r.target, r.columns)).collect();
    let (why, first) = if keys.is_empty() {
        (format!(": {}", undecided::why(table)), undecided::CHOICES)
    } else {
        (
            format!(", and reference rows without one: {}", keys.join(", ")),
            "Give the referenced rows an organisation, then run the command again.",
        )
    };
    Ok(Some(AdoptionIssue::new(
        table.title(),
        format!("{count} no known organisation{why}"),
        format!(
            "{first}\nOr give these rows one, as a superuser or a role with BYPASSRLS: update {} t set org_id = \
             '<organisation>' where t.org_id is null;",
            table.sql()
        ),
    )))
}

/// The statement that fills the rows of a batch, and returns how many rows went to which organisation.
///
/// It follows the fill trigger's rule: the parent's organisation, else that of a row which it must reference,
/// unless this is the default one, else that of the user's membership, else that of another referenced row,
/// else the default organisation if the operator chose it. A row stays as it is if nothing says where it
/// belongs, or if the row from which it gets its organisation has none yet.
pub(super) fn fill_statement(table: &Table, references: &[Reference], range: &BatchRange) -> String {
    let name = table.sql();
    let user = user_of(table);
    let parent_column = parent_of(table);
    let org = organization(table, references, "k.user_id");
    let row_join =
        if references.is_empty() { String::new() } else { format!("join only {name} t on t.ctid = k.tid") };
    // Rows that cannot be filled yet must not take the places of others.
    let (window_join, window) = if references.is_empty() && table.fills_with_default {
        (String::new(), String::new())
    } else {
        (
            parent_join(table, &parent_column),
            format!("and {} is not null", organization(table, references, &user)),
        )
    };
    let condition = match range {
        BatchRange::Blocks(..) => "t.ctid >= $1::text::tid and t.ctid < $2::text::tid".to_owned(),
        BatchRange::Any(_) => format!(
            "t.ctid = any (array(select t.ctid from only {name} t {window_join} where t.org_id is null {window} limit $1))"
        ),
    };
    // If a unique index contains org_id, an update of it conflicts with concurrent inserts of children.
    let is_indexed = table.has_org_index || matches!(range, BatchRange::Any(_));
    let lock = if is_indexed { "update" } else { "no key update" };
    let parent_join = parent_join(table, "k.parent");
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
