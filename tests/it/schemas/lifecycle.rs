//! One schema with one operator, from the plan to a restored dump.

use std::collections::BTreeMap;
use std::fmt::Debug;

use fastrand::Rng;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Row as _};

use super::catalog::{RowState, contents, fingerprint, rows};
use super::file::SchemaFile;
use super::{dump, workload};
use crate::harness::managed::{ManagedDb, Operator};

/// Rules that an owner without BYPASSRLS cannot check once row-level security is forced on organizations.
const UNCHECKED: [&str; 2] = ["default-organization", "several-memberships"];

/// A schema on its way.
struct Lifecycle<'a> {
    schema: &'a SchemaFile,
    app: ManagedDb,
}

/// Goes through all steps. Panics at the first that fails.
pub async fn run(schema: &SchemaFile, operator: Operator, statements: u32, rng: &mut Rng) {
    let app = ManagedDb::create(operator).await;
    app.create_extensions(&schema.list("needs")).await;
    app.run_as_operator(&schema.sql).await;
    let life = Lifecycle { schema, app };

    life.plans_without_changes(&[]).await;
    let original = life.rows().await;
    life.install_core().await;
    life.plans_without_changes(&[]).await;
    life.migrate(&[]).await;
    let adopted = life.rows().await;
    assert_rows(&contents(&adopted), &contents(&original), "rows after the expand phase");
    life.check().await;
    life.plans_without_changes(&["--enforce"]).await;
    life.migrate(&["--enforce", "--yes"]).await;
    assert_rows(&life.rows().await, &adopted, "rows after the enforce phase");
    audit(schema, &life.app).await;

    life.watch_and_extend().await;
    workload::run(schema, &life.app, statements, rng).await;
    life.check().await;
    let written = life.rows().await;
    life.migrate(&["--relax", "--yes"]).await;
    assert_rows(&life.rows().await, &written, "rows after --relax");
    life.check().await;
    life.plans_without_changes(&[]).await;
    life.restore(&written).await;
}

impl Lifecycle<'_> {
    async fn rows(&self) -> BTreeMap<String, Vec<RowState>> {
        // The default organisation is a new row of an application's own organizations.
        let tables: Vec<String> =
            self.schema.tables().into_iter().filter(|t| !t.starts_with("public.organization")).collect();
        rows(&self.app.db, &tables).await
    }

    async fn plans_without_changes(&self, more: &[&str]) {
        let before = fingerprint(&self.app.db).await;
        let mut arguments = vec!["--plan"];
        arguments.extend(more);
        self.migrate(&arguments).await;
        let after = fingerprint(&self.app.db).await;
        let changed: Vec<_> = before.keys().filter(|catalog| before[*catalog] != after[*catalog]).collect();
        assert!(changed.is_empty(), "--plan changed {changed:?}");
    }

    async fn migrate(&self, more: &[&str]) {
        let arguments = self.schema.arguments();
        let all: Vec<&str> = ["migrate"]
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .chain(more.iter().copied())
            .collect();
        self.app.warden(&all).await.must(0);
    }

    /// Installs the core. Then the operator creates organisations, and runs the statements of `setup`.
    async fn install_core(&self) {
        let decisions = self.schema.decisions();
        let mut all = vec!["migrate"];
        all.extend(decisions.iter().map(String::as_str));
        // An application's own organisations are used only if the operator names them.
        if self.schema.tables().iter().any(|table| table == "public.organizations") {
            all.extend(["--tables", "public.organizations,public.organization_members"]);
        }
        self.app.warden(&all).await.must(0);
        self.app.add_organizations().await;
        self.app.accept_other_owners().await;
        for sql in self.schema.all_of("setup") {
            self.app.run_as_operator(sql).await;
        }
    }

    /// Asserts that every row belongs to the organisation of its parent or user.
    async fn check(&self) {
        for sql in self.schema.all_of("check") {
            let sql = format!("select count(*) as n from ({}) x", sql.replacen("select *", "select 1", 1));
            let row =
                sqlx::query(AssertSqlSafe(sql.clone())).fetch_one(&self.app.db.pool).await.expect("checks");
            assert_eq!(row.get::<i64, _>("n"), 0, "rows in another organisation: {sql}");
        }
    }

    /// Watches tables, and applies the changes that the application makes later.
    async fn watch_and_extend(&self) {
        for arguments in self.schema.all_of("watch") {
            self.app.run_as_operator(&format!("select warden.watch({arguments})")).await;
        }
        let later = self.schema.all_of("later");
        for sql in &later {
            self.app.run_as_operator(sql).await;
        }
        if !later.is_empty() {
            self.migrate(&["--enforce", "--yes"]).await;
        }
        audit(self.schema, &self.app).await;
    }

    /// Restores a dump, completes the restored database, and compares its rows.
    async fn restore(&self, written: &BTreeMap<String, Vec<RowState>>) {
        let Some(app) = dump::restored(&self.app, &self.schema.list("needs")).await else {
            eprintln!("{}: not dumped, because pg_dump is missing", self.schema.name);
            return;
        };
        let restored = Lifecycle { schema: self.schema, app };
        assert_rows(&restored.rows().await, written, "rows after the restore");
        if self.schema.tables().iter().any(|table| table == "public.organizations") {
            // The provider's default privileges opened the application's own tables again. Without this, the
            // run would stop and print it.
            let close = "revoke insert, update, delete, truncate on organizations, organization_members
                         from anon, authenticated";
            restored.app.run_as_operator(close).await;
        }
        restored.migrate(&[]).await;
        restored.migrate(&["--enforce", "--yes"]).await;
        assert_rows(&restored.rows().await, written, "rows after the restored database was completed");
        audit(self.schema, &restored.app).await;
    }
}

/// Asserts that the rows of each table are the same.
fn assert_rows<K: Ord + Debug, V: PartialEq + Debug>(
    actual: &BTreeMap<K, Vec<V>>,
    expected: &BTreeMap<K, Vec<V>>,
    when: &str,
) {
    for (table, rows) in expected {
        let missing: Vec<&V> = rows.iter().filter(|row| !actual[table].contains(row)).take(3).collect();
        let new: Vec<&V> = actual[table].iter().filter(|row| !rows.contains(row)).take(3).collect();
        assert!(missing.is_empty() && new.is_empty(), "{when}: {table:?}: missing {missing:?}, new {new:?}");
        assert_eq!(actual[table].len(), rows.len(), "{when}: {table:?}");
    }
}

/// Asserts that the audit has no finding except those that the file ignores.
async fn audit(schema: &SchemaFile, app: &ManagedDb) {
    let ignored = schema.list("ignores");
    let run = app.warden(&["audit", "--json"]).await;
    let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    let findings: Vec<String> = report["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|f| f["severity"] == "finding")
        .filter(|f| !ignored.contains(&f["rule"].as_str().expect("a rule")))
        .filter(|f| {
            app.operator != Operator::WithoutBypass || !UNCHECKED.iter().any(|rule| f["object"] == *rule)
        })
        .map(|f| {
            format!("{} {} {}: {} -> {}", f["rule"], f["table"], f["object"], f["cause"], f["remedy"]["text"])
        })
        .collect();
    assert!(findings.is_empty(), "findings:\n{}", findings.join("\n"));
}
