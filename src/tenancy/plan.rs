//! The plan: every registered table with the objects that it needs, and which of them are missing. It is read
//! from the registry, the catalogs and `warden.tenant_objects`.
//!
//! Each run reads a new plan. Reading it changes nothing.

use anyhow::Context as _;
use sqlx::postgres::PgConnection;

use super::AdoptionIssue;
use super::registry::{Registry, Scope, Table};

/// Kind of a required object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The column `org_id`.
    Column,
    /// An index.
    Index,
    /// A unique constraint, or a unique index that serves as well.
    Unique,
    /// The foreign key to `organizations`.
    OrgKey,
    /// The composite foreign key that keeps a row in its parent's organisation.
    ParentKey,
    /// The trigger that fills `org_id` in new rows.
    FillTrigger,
    /// The trigger that keeps `org_id` from changing.
    ImmutabilityTrigger,
    /// NOT NULL on `org_id`.
    NotNull,
    /// The default of `org_id`.
    OrgDefault,
    /// The trigger that explains a row without an organisation.
    RequireTrigger,
    /// A policy, or row-level security itself.
    Protection,
}

/// An object that a table needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredObject {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Name that Warden gives it.
    pub name: String,
    /// Columns of an index, or the definition of a constraint after its name.
    pub definition: String,
    /// Whether an index is unique.
    pub is_unique: bool,
    /// An existing object that serves the purpose, or that has taken the name.
    pub found: Option<String>,
    /// Whether the object exists and is valid.
    pub is_valid: bool,
    /// Why it is not valid; empty if it is.
    pub problem: String,
    /// Whether `found` is a constraint. (A unique index may exist without one.) Always true on a partitioned
    /// table and its partitions: an index of theirs cannot become a constraint, and serves as well.
    pub is_constraint: bool,
    /// Whether it belongs to the enforce phase, because it could reject what the application writes today.
    pub is_late: bool,
}

/// One table and the objects that it needs.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table.
    pub table: Table,
    /// The objects that it needs, in order of creation.
    pub objects: Vec<RequiredObject>,
    /// Partitions or inheritance children, at all depths, with the objects that each needs.
    pub members: Vec<TablePlan>,
}

/// A registered or watched table with members that lack its triggers or policies, because they were created
/// while no event trigger protected them; or one whose next partition would be open.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct IncompleteTree {
    pub(super) oid: i64,
    /// Name of the table, quoted for SQL.
    pub(super) full_name: String,
    /// Name of the table in messages.
    pub(super) title: String,
    pub(super) member_oids: Vec<i64>,
    /// Names of the members.
    pub(super) members: Vec<String>,
    /// Whether nothing keeps a new partition empty until it is protected.
    pub(super) accepts_unprotected_rows: bool,
}

impl IncompleteTree {
    /// Reads these tables.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(super) async fn load(connection: &mut PgConnection) -> Result<Vec<Self>, sqlx::Error> {
        sqlx::query_as(
            "select i.whole::oid::bigint as oid, format('%I.%I', n.nspname, c.relname) as full_name,
               case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname as title,
               array_agg(i.member::oid::bigint) as member_oids,
               coalesce(array_agg(case mn.nspname when 'public' then '' else mn.nspname || '.' end || m.relname
                                  order by mn.nspname, m.relname) filter (where i.member <> i.whole), '{}') as members,
               bool_or(i.member = i.whole) as accepts_unprotected_rows
             from warden.incomplete_members() i
             join pg_class c on c.oid = i.whole join pg_namespace n on n.oid = c.relnamespace
             join pg_class m on m.oid = i.member join pg_namespace mn on mn.oid = m.relnamespace
             group by i.whole, n.nspname, c.relname order by 2",
        )
        .fetch_all(connection)
        .await
    }
}

/// All registered tables of the database, with the objects that they need.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tables, parents first.
    pub tables: Vec<TablePlan>,
    /// Registered tables that do not exist.
    pub absent: Vec<String>,
    /// Tables that cannot be adopted.
    pub issues: Vec<AdoptionIssue>,
    /// PostgreSQL's `server_version_num`.
    pub server_version: i32,
}

/// One row of `warden.tenant_objects`.
struct ObjectRow {
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
    /// Reads the plan from the database.
    ///
    /// # Errors
    /// If the database cannot be read, or Warden's schema is missing or belongs to another version.
    pub async fn load(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let registry =
            Registry::load(&mut *connection).await.context("cannot read the registry of tables")?;
        let rows = sqlx::query_as!(
            ObjectRow,
            r#"select o.relation::oid::bigint as "oid!", o.step as "step!", o.kind as "kind!", o.name as "name!",
                 o.definition, o.is_unique, o.found, o.is_valid as "is_valid!", o.problem,
                 exists (select from pg_constraint k
                         where k.conrelid = o.relation and k.conname = o.found)
                   or exists (select from pg_class c
                              where c.oid = o.relation and (c.relispartition or c.relkind = 'p')) as "is_constraint!",
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
        let tables = registry.tables.into_iter().map(|table| TablePlan::new(table, &rows)).collect();
        Ok(Self { tables, absent: registry.absent, issues: registry.issues, server_version })
    }
}

impl ObjectRow {
    /// The object of this row. The view has two steps for foreign keys (4 and 5), and three for triggers (2,
    /// 6 and 7).
    fn object(&self) -> Option<RequiredObject> {
        let kind = match (self.kind.as_str(), self.step) {
            ("column", _) => ObjectKind::Column,
            ("index", _) => ObjectKind::Index,
            ("unique", _) => ObjectKind::Unique,
            ("foreign_key", 4) => ObjectKind::OrgKey,
            ("foreign_key", _) => ObjectKind::ParentKey,
            ("trigger", 2) => ObjectKind::FillTrigger,
            ("trigger", 7) => ObjectKind::RequireTrigger,
            ("trigger", _) => ObjectKind::ImmutabilityTrigger,
            ("not_null", _) => ObjectKind::NotNull,
            ("default", _) => ObjectKind::OrgDefault,
            ("policy" | "row_security" | "check", _) => ObjectKind::Protection,
            _ => return None,
        };
        Some(RequiredObject {
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

impl RequiredObject {
    /// Whether a run that was killed built the unique index of a constraint, but did not add the constraint.
    pub(super) fn lacks_constraint(&self) -> bool {
        self.kind == ObjectKind::Unique
            && self.is_valid
            && !self.is_constraint
            && self.found.as_deref() == Some(&self.name)
    }
}

impl TablePlan {
    fn new(table: Table, rows: &[ObjectRow]) -> Self {
        let objects = rows.iter().filter(|r| r.oid == table.oid).filter_map(ObjectRow::object).collect();
        let members = table.members.iter().map(|member| Self::new(member.clone(), rows)).collect();
        Self { table, objects, members }
    }

    /// The table and its members: parents before children.
    pub(super) fn tree(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.members)
    }

    /// The tables of the tree that store rows: all but partitioned tables.
    pub(super) fn storing(&self) -> impl Iterator<Item = &Self> {
        self.tree().filter(|t| !t.table.is_partitioned)
    }

    /// The objects of one kind.
    pub(super) fn of(&self, kind: ObjectKind) -> impl Iterator<Item = &RequiredObject> {
        self.objects.iter().filter(move |o| o.kind == kind)
    }

    /// Whether every object of one kind is valid.
    pub(super) fn has(&self, kind: ObjectKind) -> bool {
        self.of(kind).all(|o| o.is_valid)
    }

    /// Whether every object of one kind is valid, for the table and for its members.
    pub(super) fn has_throughout(&self, kind: ObjectKind) -> bool {
        self.tree().all(|t| t.has(kind))
    }

    /// Whether new rows need the fill trigger. Once `org_id` is NOT NULL, they do not.
    pub(super) fn needs_fill(&self) -> bool {
        self.needs_not_null() && !self.table.is_not_null
    }

    /// Whether any part of the enforce phase is done.
    pub(super) fn is_partly_enforced(&self) -> bool {
        self.tree()
            .flat_map(|t| t.of(ObjectKind::Protection))
            .any(|o| o.is_valid && o.name.starts_with("warden_"))
            || (self.needs_not_null() && self.table.is_not_null)
    }

    /// Whether the table was enforced and its policies, its default or its trigger have changed since then.
    pub(super) fn needs_repair(&self) -> bool {
        let is_isolated =
            self.of(ObjectKind::Protection).any(|o| o.name == "warden_org" && o.found.is_some());
        is_isolated
            && !self.needs_fill()
            && self.objects.iter().any(|o| {
                !o.is_valid
                    && matches!(
                        o.kind,
                        ObjectKind::Protection | ObjectKind::OrgDefault | ObjectKind::RequireTrigger
                    )
            })
    }

    /// Whether the enforce phase is complete.
    pub(super) fn is_enforced(&self) -> bool {
        self.tree().flat_map(|t| &t.objects).all(|o| o.is_valid || !o.is_late)
    }

    fn needs_not_null(&self) -> bool {
        self.table.scope == Scope::Org && !self.table.is_never_filled
    }
}
