//! What the registry and the catalogs say of tables: columns, checks, keys.

use serde::Deserialize;
use sqlx::postgres::PgConnection;

/// Every table that is registered, or that one of them refers to.
#[derive(Debug)]
pub struct Schema {
    tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, Deserialize)]
pub struct Table {
    /// As it stands in a statement, with its schema.
    pub name: String,
    /// `org`, `user` or `root`; none where it is not registered.
    pub scope: Option<String>,
    /// The column that its rows are kept apart by; empty where it is not registered.
    pub key: String,
    pub is_read_only: bool,
    pub is_immutable: bool,
    pub parent_column: Option<String>,
    pub primary_key: Vec<String>,
    pub columns: Vec<Column>,
    pub checks: Vec<Check>,
    pub foreign_keys: Vec<ForeignKey>,
    /// The unique indexes that the registry asks for.
    pub uniques: Vec<Unique>,
    /// The indexes that the registry asks for, under the names that serve.
    pub indexes: Vec<Index>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    pub name: String,
    /// As in a cast.
    pub type_name: String,
    /// Behind a domain, the type that it is made of.
    pub base_type: String,
    /// Of the base type, where it is a domain: `N` number, `S` string, `E` enum, `A` array ...
    pub category: String,
    /// Of the element, where it is an array.
    pub element_type: Option<String>,
    pub element_category: Option<String>,
    /// Of an enum.
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
    /// Whether both sides have rows of organisations.
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
    /// With their order, as in `order by`.
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

    /// The registered ones.
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

    /// `(a, b)` of the primary key, quoted.
    pub fn primary_key_list(&self) -> String {
        self.primary_key.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ")
    }
}

/// A name as it stands in a statement.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
