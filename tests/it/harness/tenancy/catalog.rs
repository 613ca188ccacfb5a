//! Description of tables from the registry and the catalogs: columns, checks, keys.

use serde::Deserialize;
use sqlx::postgres::PgConnection;

/// Every registered table, and every table that one of them references.
#[derive(Debug)]
pub struct Schema {
    tables: Vec<Table>,
}

/// One table.
#[derive(Clone, Debug, Deserialize)]
pub struct Table {
    /// Quoted name with the schema.
    pub name: String,
    /// `org`, `user` or `root`; none if the table is not registered.
    pub scope: Option<String>,
    /// The column that isolates its rows; empty if the table is not registered.
    pub key: String,
    pub is_read_only: bool,
    /// Whether the grants alone decide who sees the rows of an organisation.
    pub is_granted: bool,
    /// Whether the worker of recordings uses it.
    pub has_worker: bool,
    /// Whether `org_id` is the organisation of the claims by default.
    pub has_default: bool,
    pub is_immutable: bool,
    pub parent_column: Option<String>,
    pub primary_key: Vec<String>,
    pub columns: Vec<Column>,
    pub checks: Vec<Check>,
    pub foreign_keys: Vec<ForeignKey>,
    /// Unique indexes that the registry requires.
    pub uniques: Vec<Unique>,
    /// Indexes that the registry requires, by the names of the existing ones.
    pub indexes: Vec<Index>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    pub name: String,
    /// Type name for a cast.
    pub type_name: String,
    /// The type itself, or the base type of a domain.
    pub base_type: String,
    /// Category of the base type: `N` number, `S` string, `E` enum, `A` array ...
    pub category: String,
    /// Type of an array's elements.
    pub element_type: Option<String>,
    pub element_category: Option<String>,
    /// First label of an enum.
    pub first_label: Option<String>,
    pub is_required: bool,
}

/// A check constraint, or one of a domain.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    pub name: String,
    pub columns: Vec<String>,
    pub definition: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    pub columns: Vec<String>,
    pub parent: String,
    pub parent_columns: Vec<String>,
    /// Whether both tables belong to organisations.
    pub is_between_orgs: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Unique {
    pub name: String,
    pub columns: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    pub name: String,
    /// Columns with their order, as in `order by`.
    pub columns: String,
}

impl Schema {
    pub async fn load(connection: &mut PgConnection) -> Self {
        let tables: serde_json::Value = sqlx::query_scalar(include_str!("catalog.sql"))
            .fetch_one(connection)
            .await
            .expect("reads the catalogs");
        Self { tables: serde_json::from_value(tables).expect("as written in catalog.sql") }
    }

    /// The registered tables.
    pub fn registered(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| table.scope.is_some())
    }

    pub fn table(&self, name: &str) -> &Table {
        self.tables.iter().find(|table| table.name == name).unwrap_or_else(|| panic!("no table {name}"))
    }
}

impl Table {
    pub fn column(&self, name: &str) -> &Column {
        self.columns
            .iter()
            .find(|column| column.name == name)
            .unwrap_or_else(|| panic!("{} has no column {name}", self.name))
    }

    /// Quoted columns of the primary key, separated by commas.
    pub fn primary_key_list(&self) -> String {
        self.primary_key.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ")
    }
}

/// A quoted identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
