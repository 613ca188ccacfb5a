//! What is to be done in this database, read from the registry, the catalogs and `warden.tenant_objects`.
//!
//! A plan is made anew by every run, and changes nothing.

use anyhow::Context as _;
use sqlx::postgres::PgConnection;

use super::Finding;
use super::registry::{Registry, Scope, Table};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The column `org_id`.
    Column,
    /// An index.
    Index,
    /// A unique constraint, or an index that does as well.
    Unique,
    /// The foreign key to organizations.
    OrgKey,
    /// The foreign key that keeps a row in its parent's organisation.
    ParentKey,
    /// The trigger that fills `org_id`.
    Filling,
    /// The trigger that keeps `org_id` from changing.
    Guard,
    /// NOT NULL.
    NotNull,
    /// A policy, or row-level security itself.
    Protection,
}

/// Something that a table needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Columns of an index; what follows the name of a constraint.
    pub definition: String,
    /// Whether an index is unique.
    pub is_unique: bool,
    /// What there is instead, or of the same name.
    pub found: Option<String>,
    /// Whether nothing has to be done.
    pub is_valid: bool,
    /// Why not.
    pub problem: String,
    /// Whether what was found is a constraint (a unique index may be none).
    pub is_constraint: bool,
    /// Whether it waits for the second phase, because it could refuse what the application does today.
    pub is_late: bool,
}

/// One table and what it needs.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table.
    pub table: Table,
    /// What it needs, in the order in which it is made.
    pub objects: Vec<Object>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tables, parents first.
    pub tables: Vec<TablePlan>,
    /// Tables that are registered and not there.
    pub absent: Vec<String>,
    /// Tables that can't be adopted.
    pub findings: Vec<Finding>,
    /// PostgreSQL's `server_version_num`.
    pub server_version: i32,
}

// The view's steps 4 and 5 are both foreign keys, 2 and 6 both triggers.
struct Row {
    oid: i64,
    step: i32,
    kind: String,
    name: String,
    definition: Option<String>,
    is_unique: Option<bool>,
    found: Option<String>,
    is_valid: bool,
    problem: Option<String>,
    is_constraint: bool,
    is_late: bool,
}

impl Plan {
    /// Reads the database.
    ///
    /// # Errors
    /// When it can't be read, or Warden's schema is missing or of another version.
    pub async fn load(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let registry =
            Registry::load(&mut *connection).await.context("cannot read the registry of tables")?;
        let rows = sqlx::query_as!(
            Row,
            r#"select o.relation::oid::bigint as "oid!", o.step as "step!", o.kind as "kind!", o.name as "name!",
                 o.definition, o.is_unique, o.found, o.is_valid as "is_valid!", o.problem,
                 exists (select from pg_constraint k
                         where k.conrelid = o.relation and k.conname = o.found) as "is_constraint!",
                 o.phase = 'enforce' as "is_late!"
               from warden.tenant_objects o where o.applies and o.relation is not null
               order by o.relation::oid, o.step, o.name"#
        )
        .fetch_all(&mut *connection)
        .await
        .context("cannot read warden.tenant_objects")?;
        let server_version =
            sqlx::query_scalar!(r#"select current_setting('server_version_num')::int as "version!""#)
                .fetch_one(&mut *connection)
                .await?;
        let tables = registry
            .tables
            .into_iter()
            .map(|table| {
                let objects = rows.iter().filter(|r| r.oid == table.oid).filter_map(Row::object).collect();
                TablePlan { table, objects }
            })
            .collect();
        Ok(Self { tables, absent: registry.absent, findings: registry.findings, server_version })
    }
}

impl Row {
    fn object(&self) -> Option<Object> {
        let kind = match (self.kind.as_str(), self.step) {
            ("column", _) => Kind::Column,
            ("index", _) => Kind::Index,
            ("unique", _) => Kind::Unique,
            ("foreign_key", 4) => Kind::OrgKey,
            ("foreign_key", _) => Kind::ParentKey,
            ("trigger", 2) => Kind::Filling,
            ("trigger", _) => Kind::Guard,
            ("not_null", _) => Kind::NotNull,
            ("policy" | "row_security", _) => Kind::Protection,
            _ => return None,
        };
        Some(Object {
            kind,
            name: self.name.clone(),
            definition: self.definition.clone().unwrap_or_default(),
            is_unique: self.is_unique.unwrap_or(false),
            found: self.found.clone(),
            is_valid: self.is_valid,
            problem: self.problem.clone().unwrap_or_default(),
            is_constraint: self.is_constraint,
            is_late: self.is_late,
        })
    }
}

impl Object {
    /// A unique index that was built for a constraint, which a run that was killed did not make any more.
    pub(super) fn is_to_be_attached(&self) -> bool {
        self.kind == Kind::Unique
            && self.is_valid
            && !self.is_constraint
            && self.found.as_deref() == Some(&self.name)
    }
}

impl TablePlan {
    /// The objects of a kind.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |o| o.kind == kind)
    }

    /// Whether all of a kind is there.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.of(kind).all(|o| o.is_valid)
    }

    /// Whether rows are filled as they come. Once `org_id` is NOT NULL they are no longer.
    pub(super) fn wants_filling(&self) -> bool {
        self.table.scope == Scope::Org && !self.table.is_never_filled && !self.table.is_not_null
    }

    /// Whether anything of the second phase is there.
    pub(super) fn is_enforced_in_part(&self) -> bool {
        self.of(Kind::Protection).any(|o| o.is_valid && o.name.starts_with("warden_"))
            || (self.wants_not_null() && self.table.is_not_null)
    }

    /// Whether all of the second phase is there.
    pub(super) fn is_enforced(&self) -> bool {
        self.objects.iter().all(|o| o.is_valid || !o.is_late)
    }

    fn wants_not_null(&self) -> bool {
        self.table.scope == Scope::Org && !self.table.is_never_filled
    }
}
