//! Valid rows for any table. Required columns get values by their type and by the constants in checks, and
//! foreign keys get parents. If a check rejects the values, others are tried, so this also works for unknown
//! tables.

use std::collections::BTreeMap;

use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use uuid::Uuid;

use super::catalog::{Column, Schema, Table, quote};

/// Number of combinations of values that are tried before a check counts as unsatisfiable.
const TRIES_MAX: usize = 2000;
/// Maximum depth of parents.
const DEPTH_MAX: u32 = 12;

/// Creates rows.
#[derive(Debug)]
pub struct RowMaker<'a> {
    pub schema: &'a Schema,
    /// Whether parents are also created for foreign keys whose columns may be null.
    pub with_optional_parents: bool,
}

/// A valid insert for one organisation (or user): an SQL expression for each column.
#[derive(Clone, Debug)]
pub struct Insert {
    pub table: String,
    pub values: BTreeMap<String, String>,
}

impl Insert {
    pub fn with(&self, column: &str, expression: impl Into<String>) -> Self {
        let mut other = self.clone();
        other.values.insert(column.to_owned(), expression.into());
        other
    }

    pub fn without(&self, column: &str) -> Self {
        let mut other = self.clone();
        other.values.remove(column);
        other
    }

    pub fn sql(&self) -> String {
        let columns: Vec<String> = self.values.keys().map(|c| quote(c)).collect();
        let values: Vec<&str> = self.values.values().map(String::as_str).collect();
        // "overriding" allows values for keys that are GENERATED ALWAYS, which tests use to conflict with a
        // row.
        format!(
            "insert into {} ({}) overriding system value values ({})",
            self.table,
            columns.join(", "),
            values.join(", ")
        )
    }
}

/// A string literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl RowMaker<'_> {
    /// An insert for a row of `key` (an organisation, or a user for a table of users). The parents that it
    /// needs are inserted. The insert was tried, so it satisfies every check.
    ///
    /// # Errors
    /// The database's error.
    pub async fn prepare(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        key: Uuid,
    ) -> Result<Insert, String> {
        Box::pin(self.prepare_at(connection, table, key, 0)).await
    }

    /// Inserts a row, and returns the values of these columns as literals.
    ///
    /// # Errors
    /// The database's error.
    pub async fn insert(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        key: Uuid,
        returning: &[String],
    ) -> Result<Vec<String>, String> {
        Box::pin(self.insert_at(connection, table, key, returning, 0)).await
    }

    async fn insert_at(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        key: Uuid,
        returning: &[String],
        depth: u32,
    ) -> Result<Vec<String>, String> {
        // Any row of an unregistered table can serve as parent.
        if table.scope.is_none()
            && let Some(found) = existing(connection, table, returning).await
        {
            return Ok(found);
        }
        let insert = Box::pin(self.prepare_at(connection, table, key, depth)).await?;
        stored(connection, &insert, returning).await.map_err(|e| format!("{}: {e}", insert.sql()))
    }

    async fn prepare_at(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        key: Uuid,
        depth: u32,
    ) -> Result<Insert, String> {
        assert!(depth < DEPTH_MAX, "{}: its parents form a cycle", table.name);
        let mut insert = Insert { table: table.name.clone(), values: BTreeMap::new() };
        if !table.key.is_empty() {
            insert.values.insert(table.key.clone(), format!("'{key}'"));
        }
        for foreign in &table.foreign_keys {
            let open: Vec<&String> =
                foreign.columns.iter().filter(|c| !insert.values.contains_key(*c)).collect();
            let is_parent = table.parent_column.as_ref().is_some_and(|p| foreign.columns.contains(p));
            let is_needed =
                is_parent || self.with_optional_parents || open.iter().any(|c| table.column(c).is_required);
            if open.is_empty() || !is_needed || foreign.parent == table.name {
                continue;
            }
            let parent = self.schema.table(&foreign.parent);
            let keys =
                Box::pin(self.insert_at(connection, parent, key, &foreign.parent_columns, depth + 1)).await?;
            insert.values.extend(foreign.columns.iter().cloned().zip(keys));
        }
        for column in table.columns.iter().filter(|c| c.is_required) {
            if !insert.values.contains_key(&column.name) {
                insert.values.insert(column.name.clone(), candidates(table, column).swap_remove(0));
            }
        }
        self.meet_checks(connection, table, insert).await
    }

    /// Tries the insert, and other values if a check rejects these.
    async fn meet_checks(
        &self,
        connection: &mut PgConnection,
        table: &Table,
        mut insert: Insert,
    ) -> Result<Insert, String> {
        let mut tries: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            run(connection, "savepoint try").await;
            let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(insert.sql()))).await;
            run(connection, "rollback to try; release try").await;
            let Err(error) = done else { return Ok(insert) };
            let rejecting = error.as_database_error().and_then(|e| {
                let e = e.try_downcast_ref::<PgDatabaseError>()?;
                (e.code() == "23514").then(|| e.constraint()).flatten().map(str::to_owned)
            });
            let check = rejecting.and_then(|name| table.checks.iter().find(|check| check.name == name));
            let Some(check) = check else { return Err(format!("{}: {error}", insert.sql())) };
            let n = tries.entry(check.name.clone()).or_default();
            *n += 1;
            if *n > TRIES_MAX {
                return Err(format!(
                    "{}: no value satisfies {} {}",
                    table.name, check.name, check.definition
                ));
            }
            // The n-th combination of candidates for the check's columns.
            let mut rest = *n;
            for name in &check.columns {
                if *name == table.key || table.foreign_keys.iter().any(|f| f.columns.contains(name)) {
                    continue;
                }
                let mut choices = candidates(table, table.column(name));
                let choice = choices.swap_remove(rest % choices.len());
                rest /= choices.len() + 1;
                insert.values.insert(name.clone(), choice);
            }
        }
    }
}

/// Inserts, and returns columns as literals.
async fn stored(
    connection: &mut PgConnection,
    insert: &Insert,
    returning: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let columns: Vec<String> = returning.iter().map(|c| format!("{}::text", quote(c))).collect();
    let sql = format!("{} returning {}", insert.sql(), columns.join(", "));
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok((0..returning.len()).map(|n| literal(row.get::<&str, _>(n))).collect())
}

/// Columns of an existing row, as literals.
async fn existing(connection: &mut PgConnection, table: &Table, columns: &[String]) -> Option<Vec<String>> {
    let list: Vec<String> = columns.iter().map(|c| format!("{}::text", quote(c))).collect();
    let sql = format!("select {} from {} limit 1", list.join(", "), table.name);
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(connection).await.expect("reads")?;
    Some((0..columns.len()).map(|n| literal(row.get::<&str, _>(n))).collect())
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    connection.execute(sqlx::raw_sql(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Candidate values of a column: the likeliest first, then the constants in its checks.
pub fn candidates(table: &Table, column: &Column) -> Vec<String> {
    let place = table.columns.iter().position(|c| c.name == column.name).unwrap_or_default();
    let mut found = of_type(&column.category, &column.base_type, column.first_label.as_deref(), place);
    if let (Some(element), Some(category)) = (&column.element_type, &column.element_category) {
        let items = of_type(category, element, None, place);
        found = items.iter().map(|item| format!("array[{item}]")).collect();
    }
    let named = table.checks.iter().filter(|check| check.columns.contains(&column.name));
    for check in named {
        found.extend(literals(&check.definition));
    }
    found.into_iter().map(|value| format!("({value})::{}", column.type_name)).collect()
}

fn of_type(category: &str, type_name: &str, first_label: Option<&str>, place: usize) -> Vec<String> {
    let unique = Uuid::new_v4().simple().to_string();
    let digits = format!("{:07}", fastrand::u32(..10_000_000));
    // Later columns get later values, because many checks require one column to be after another.
    let of = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    match (category, type_name.split('(').next().unwrap_or_default()) {
        ("E", _) => vec![literal(first_label.unwrap_or_default())],
        (_, "uuid") => of(&["gen_random_uuid()"]),
        (_, "json" | "jsonb") => of(&["'{}'", "'[]'", "'\"x\"'", "'1'"]),
        (_, "bytea") => vec![format!("'\\x{unique}{unique}'"), "'\\x00'".into()],
        ("B", _) => of(&["true", "false"]),
        ("D", "time without time zone" | "time with time zone") => {
            vec![format!("time '08:00' + {place} * interval '1 minute'")]
        }
        ("D", _) => vec![format!("now() + {place} * interval '1 day'"), "now() - interval '1 day'".into()],
        ("T", _) => of(&["interval '1 hour'", "interval '0'"]),
        ("N", "numeric") => of(&["5", "1", "0.5", "0", "-1", "15", "100"]),
        ("N", _) => vec![
            fastrand::u32(1..30_000).to_string(),
            "1".into(),
            "0.5".into(),
            "0".into(),
            "-1".into(),
            "100".into(),
        ],
        ("I", _) => of(&["'10.0.0.1'"]),
        ("R", _) => of(&["'empty'"]),
        ("S", _) => vec![
            literal(&format!("v{}", &unique[..8])),
            literal(&format!("+1415{digits}")),
            literal(&format!("AC{unique}")),
            literal(&format!("SK{unique}")),
            literal("USD"),
            literal(&format!("{}@example.com", &unique[..8])),
            literal(&format!("https://example.com/{unique}")),
            literal("1"),
            literal(&unique),
            literal(""),
        ],
        _ => of(&["''"]),
    }
}

/// The constants in a check, which often are the values that it allows.
fn literals(definition: &str) -> Vec<String> {
    let texts = definition.split('\'').skip(1).step_by(2).map(literal);
    let numbers = definition
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter(|word| word.parse::<f64>().is_ok())
        .map(str::to_owned);
    texts.chain(numbers).collect()
}
