//! The schemas of `tests/schemas`, each modelled on a kind of real application: plan, migrate, enforce,
//! audit, watch, random writes with following clients, relax, dump and restore. Every step runs as an
//! operator: as a superuser, or as the owner of a managed database.
//!
//! The suite runs a few. `make schemas` runs all. `WARDEN_SCHEMAS=django,rails` selects by name, and
//! `WARDEN_SEED` repeats the random writes.

mod catalog;
mod dump;
mod file;
mod lifecycle;
mod managed;
mod workload;

use fastrand::Rng;

use self::file::SchemaFile;
use crate::harness::managed::{ManagedDb, Operator};

/// Random statements of each schema in the suite, and if the schemas are selected.
const STATEMENTS: (u32, u32) = (40, 120);

/// Schemas of which a run of the suite draws one for each operator.
const SAMPLE: [(Operator, &[&str]); 3] = [
    (Operator::Superuser, &["quoted_names"]),
    (Operator::Managed, &["own_policies", "partitioned_by_month"]),
    (Operator::WithoutBypass, &["own_organizations"]),
];

#[tokio::test]
async fn a_superuser_completes_every_schema() {
    complete(Operator::Superuser).await;
}

#[tokio::test]
async fn a_managed_owner_completes_every_schema() {
    complete(Operator::Managed).await;
}

#[tokio::test]
async fn an_owner_without_bypassrls_completes_every_schema() {
    complete(Operator::WithoutBypass).await;
}

/// Runs the selected schemas one after the other, and reports all that fail.
async fn complete(operator: Operator) {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WARDEN_SEED={seed}");
    let selection = std::env::var("WARDEN_SCHEMAS").ok();
    let statements = if selection.is_some() { STATEMENTS.1 } else { STATEMENTS.0 };
    let sample = SAMPLE.iter().find(|(o, _)| *o == operator).expect("each operator has a sample").1;
    let drawn = sample[Rng::with_seed(seed).usize(..sample.len())];
    let mut failures = Vec::new();
    for schema in SchemaFile::all() {
        let is_selected = match selection.as_deref() {
            None => schema.name == drawn,
            Some("all") => true,
            Some(names) => names.split(',').any(|name| name == schema.name),
        };
        if !is_selected || !is_possible(&schema).await {
            continue;
        }
        let name = schema.name.clone();
        let mut rng = Rng::with_seed(seed);
        let run = tokio::spawn(async move { lifecycle::run(&schema, operator, statements, &mut rng).await });
        if run.await.is_err() {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "{operator:?}: {failures:?}; WARDEN_SEED={seed}");
}

/// Whether this server has the version and the extensions that a schema needs.
async fn is_possible(schema: &SchemaFile) -> bool {
    let db = ManagedDb::create(Operator::Superuser).await.db;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int / 10000")
        .fetch_one(&db.pool)
        .await
        .expect("reads");
    let available: Vec<String> = sqlx::query_scalar("select name::text from pg_available_extensions")
        .fetch_all(&db.pool)
        .await
        .expect("reads");
    let since = schema.one("since").map_or(0, |v| v.parse().expect("a version"));
    let missing = schema.list("needs").into_iter().find(|name| available.iter().all(|a| a != name));
    // `make schemas` installs the extensions, and runs everything that was selected.
    let is_selected = std::env::var("WARDEN_SCHEMAS").is_ok();
    assert!(
        !is_selected || missing.is_none(),
        "{}: {missing:?} is not installed: run scripts/setup types",
        schema.name
    );
    if version < since || missing.is_some() {
        eprintln!("{}: skipped: needs PostgreSQL {since} and {missing:?}", schema.name);
        return false;
    }
    true
}

#[test]
fn the_collection_is_complete_and_well_formed() {
    let files = SchemaFile::all();
    assert!(files.len() >= 12, "{} schemas", files.len());
    for file in &files {
        assert!(!file.list("tables").is_empty(), "{}: names tables", file.name);
        assert!(!file.all_of("watch").is_empty(), "{}: watches a table", file.name);
        assert!(!file.all_of("write").is_empty(), "{}: writes", file.name);
        assert!(!file.all_of("check").is_empty() || file.name == "django", "{}: checks its rows", file.name);
    }
    for name in SAMPLE.iter().flat_map(|(_, names)| names.iter()) {
        assert!(files.iter().any(|file| file.name == *name), "the sample names {name}, which does not exist");
    }
}
