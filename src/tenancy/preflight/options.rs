//! The options of the listed tables: whether their columns can name a user or a row of the parent, and
//! whether the list contradicts itself. Everything is reported before a run changes anything.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::choices::Choices;
use super::decisions::exists;
use super::tables::{self, CORE, Listed};
use crate::tenancy::AdoptionIssue;
use crate::tenancy::sql::quoted;

/// Values of a text column that are searched for a user.
const SEARCHED_VALUES_MAX: u32 = 10_000;
/// Pattern of a uuid in a text column.
const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// A column that an option names.
#[derive(Debug, sqlx::FromRow)]
struct Column {
    n: i32,
    type_name: String,
    /// Whether values of the type are uuids.
    is_uuid: bool,
    /// Whether a value of the type can be the text of a uuid.
    is_text: bool,
    /// Whether the column alone identifies a row.
    is_unique: bool,
    /// Whether this role may read all values.
    is_readable: bool,
}

/// Reports options that cannot be right. Names that do not exist are reported by `tables`.
pub(super) async fn check(
    connection: &mut PgConnection,
    choices: &Choices,
) -> Result<Vec<AdoptionIssue>, sqlx::Error> {
    let listed = &tables::resolve(&mut *connection, &choices.tables).await?;
    let mut problems = repeated(listed);
    problems.extend(misplaced(listed));
    problems.extend(unadopted_parents(listed, adopted(&mut *connection).await?));
    for (n, table) in listed.iter().enumerate().filter(|(_, table)| table.table.problem.is_none()) {
        let columns = columns(&mut *connection, table).await?;
        if let Some(problem) = chosen_user_problem(&mut *connection, table, columns.get(&USER)).await? {
            problems.push((n, problem));
        }
        problems.extend(parent_problem(table, &columns).map(|problem| (n, problem)));
    }
    problems.sort_by_key(|(n, _)| *n);
    Ok(problems.into_iter().map(|(n, problem)| listed[n].issue(problem)).collect())
}

/// Numbers of the columns that a table's options name.
const USER: i32 = 0;
const CHILD: i32 = 1;
const KEY: i32 = 2;

/// The parent, if it is a table that can be adopted.
fn parent_of(table: &Listed) -> Option<i64> {
    table.parent.as_ref().filter(|(_, parent)| parent.problem.is_none()).and_then(|(_, parent)| parent.oid)
}

/// The columns that the options name and that exist.
async fn columns(connection: &mut PgConnection, table: &Listed) -> Result<HashMap<i32, Column>, sqlx::Error> {
    let choice = &table.choice;
    let parent = parent_of(table);
    let wanted: Vec<_> = [
        (USER, table.table.oid, choice.user_column.as_deref()),
        (CHILD, table.table.oid, choice.parent_column.as_deref()),
        (KEY, parent, parent.map(|_| choice.key())),
    ]
    .into_iter()
    .filter_map(|(n, relation, column)| Some(json!({"n": n, "relation": relation?, "name": column?})))
    .collect();
    read_columns(connection, wanted).await
}

async fn read_columns(
    connection: &mut PgConnection,
    wanted: Vec<serde_json::Value>,
) -> Result<HashMap<i32, Column>, sqlx::Error> {
    let columns: Vec<Column> = sqlx::query_as(include_str!("sql/columns.sql"))
        .bind(sqlx::types::Json(wanted))
        .fetch_all(connection)
        .await?;
    Ok(columns.into_iter().map(|column| (column.n, column)).collect())
}

/// Adopted tables whose rows belong to organisations.
async fn adopted(connection: &mut PgConnection) -> Result<HashSet<i64>, sqlx::Error> {
    if !exists(&mut *connection, "warden.tenant_tables").await? {
        return Ok(HashSet::new());
    }
    let oids: Vec<i64> = sqlx::query_scalar(
        "select c.oid::bigint from warden.tenant_tables t
         join pg_namespace n on n.nspname = t.schema_name
         join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
         where t.scope <> 'user'",
    )
    .fetch_all(connection)
    .await?;
    Ok(oids.into_iter().collect())
}

/// Why a column that no option names cannot name a user.
pub(super) async fn user_problem(
    connection: &mut PgConnection,
    oid: i64,
    table: &str,
    name: &str,
) -> Result<Option<String>, sqlx::Error> {
    let wanted = vec![json!({"n": USER, "relation": oid, "name": name})];
    let columns = read_columns(&mut *connection, wanted).await?;
    let Some(column) = columns.get(&USER) else { return Ok(None) };
    value_problem(connection, Some(table), name, column).await
}

/// Why the user column of an option cannot name a user.
async fn chosen_user_problem(
    connection: &mut PgConnection,
    table: &Listed,
    column: Option<&Column>,
) -> Result<Option<String>, sqlx::Error> {
    let (Some(column), Some(name)) = (column, &table.choice.user_column) else { return Ok(None) };
    value_problem(connection, table.table.full_name.as_deref(), name, column).await
}

/// Why values of a column cannot be users, whose ids are uuids.
async fn value_problem(
    connection: &mut PgConnection,
    table: Option<&str>,
    name: &str,
    column: &Column,
) -> Result<Option<String>, sqlx::Error> {
    let what = format!("has a user column \"{name}\" of type {}", column.type_name);
    if column.is_uuid {
        return Ok(None);
    }
    if !column.is_text {
        return Ok(Some(format!("{what}, but users are uuids (organization_members.user_id)")));
    }
    let (Some(relation), true) = (table, column.is_readable) else { return Ok(None) };
    let name = quoted(name);
    let sql = format!(
        "select count(*) > 0 and not coalesce(bool_or(v.value ~ '{UUID}'), false)
         from (select {name}::text as value from {relation} where {name} is not null limit {SEARCHED_VALUES_MAX}) v"
    );
    let is_other: bool = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok(is_other.then(|| format!("{what}, and none of its values is a uuid, which the ids of users are")))
}

/// Why the column cannot reference the parent's key.
fn parent_problem(table: &Listed, columns: &HashMap<i32, Column>) -> Option<String> {
    let (name, _) = table.parent.as_ref()?;
    parent_of(table)?;
    let (title, key) = (name.title(), table.choice.key());
    // A key that the operator named and that does not exist is reported with the other names.
    let Some(key_column) = columns.get(&KEY) else {
        let is_default = table.choice.parent_key.is_none();
        return is_default.then(|| {
            format!("has the parent {title}, which has no column \"{key}\": name it with parent_key=")
        });
    };
    let child = columns.get(&CHILD)?;
    let column = table.choice.parent_column.as_deref()?;
    if child.type_name != key_column.type_name {
        return Some(format!(
            "has a parent column \"{column}\" of type {}, but {title}.\"{key}\" is {}",
            child.type_name, key_column.type_name
        ));
    }
    (!key_column.is_unique).then(|| {
        format!(
            "has the parent {title}, where \"{key}\" is not unique: it does not identify a row of the parent"
        )
    })
}

/// Tables that the list names twice, also by different spellings.
fn repeated(listed: &[Listed]) -> Vec<(usize, String)> {
    let mut seen = HashSet::new();
    let is_repeated = |table: &Listed| table.table.oid.is_some_and(|oid| !seen.insert(oid));
    let positions: Vec<bool> = listed.iter().map(is_repeated).collect();
    let repeated = positions.into_iter().enumerate().filter(|(_, is_repeated)| *is_repeated);
    repeated.map(|(n, _)| (n, "is listed twice".to_owned())).collect()
}

/// Options of tables that have none.
fn misplaced(listed: &[Listed]) -> Vec<(usize, String)> {
    let is_core = |table: &Listed| table.table.full_name.as_deref().is_some_and(|name| CORE.contains(&name));
    let with_options = listed.iter().enumerate().filter(|(_, t)| is_core(t) && t.choice.is_explicit());
    with_options
        .map(|(n, _)| {
            (n, "says itself to which organisation its rows belong: it takes no options".to_owned())
        })
        .collect()
}

/// Parents that are neither adopted nor listed, and tables that inherit from themselves in the end.
fn unadopted_parents(listed: &[Listed], mut known: HashSet<i64>) -> Vec<(usize, String)> {
    let is_core = |table: &Listed| {
        let parent = table.parent.as_ref().and_then(|(_, parent)| parent.full_name.as_deref());
        parent.is_some_and(|name| CORE[0] == name)
    };
    let mut waiting: Vec<usize> = (0..listed.len()).filter(|n| listed[*n].table.oid.is_some()).collect();
    loop {
        let before = waiting.len();
        waiting.retain(|n| {
            let table = &listed[*n];
            let is_ready = is_core(table) || parent_of(table).is_none_or(|parent| known.contains(&parent));
            if is_ready {
                known.extend(table.table.oid);
            }
            !is_ready
        });
        if waiting.len() == before {
            break;
        }
    }
    let in_list: HashSet<i64> = listed.iter().filter_map(|table| table.table.oid).collect();
    let problem = |n: usize| {
        let (name, parent) = listed[n].parent.as_ref()?;
        let title = name.title();
        Some(if parent.oid == listed[n].table.oid {
            "has itself as parent".to_owned()
        } else if parent.oid.is_some_and(|oid| in_list.contains(&oid)) {
            format!("inherits from {title}, which does not inherit from an organisation in the end")
        } else {
            format!("inherits its organisation from {title}, which is not adopted: list {title} as well")
        })
    };
    waiting.into_iter().filter_map(|n| Some((n, problem(n)?))).collect()
}
