//! Dumps and restores: the restored database works, or `warden migrate` completes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::{Connection as _, PgConnection};
use warden::postgres::migrate;
use warden_devkit::cluster::SUPERUSER;

use super::{count, texts};
use crate::harness::{TestDb, cluster_options, shared_cluster_url};
use crate::legacy::catalog;

/// `pg_dump` with these arguments into a file or directory, as a program of this server's version.
pub(super) fn dump(db: &TestDb, args: &[&str], to: &Path) {
    run("pg_dump", |command| command.args(args).arg("-f").arg(to).arg(db.url()));
}

/// Runs a client program, and returns its messages.
pub(super) fn run(program: &str, args: impl FnOnce(&mut Command) -> &mut Command) -> String {
    let path = cluster_options().binaries.client(program).expect("installed beside the server");
    let mut command = Command::new(path);
    let output = args(&mut command).output().expect("runs");
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {messages}");
    messages
}

/// A directory for dumps, removed at the end of the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(db: &TestDb) -> Self {
        let dir = std::env::temp_dir().join(format!("warden-restore-{}-{}", std::process::id(), db.name));
        std::fs::create_dir(&dir).expect("creates");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failing test may have left nothing to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the client programs of this server's version are installed. The binaries of npm lack them.
pub(super) fn has_programs() -> bool {
    let has =
        ["pg_dump", "pg_restore", "psql"].iter().all(|p| cluster_options().binaries.client(p).is_some());
    if !has {
        eprintln!("not tested: pg_dump, pg_restore and psql of this version are not installed");
    }
    has
}

/// A database in use.
async fn in_use() -> TestDb {
    let db = TestDb::create().await;
    begin_use(&db).await;
    db
}

/// Adds an adopted and watched table of an application, two organisations, and events.
pub(super) async fn begin_use(db: &TestDb) {
    db.run(
        "create table invoices (id uuid primary key default gen_random_uuid(), total int not null);
         select warden.adopt_table('invoices');
         grant select, insert, update, delete on invoices to authenticated;
         select warden.watch('invoices', 'invoices', 'invoice')",
    )
    .await;
    for _ in 0..2 {
        let org = db.create_org().await;
        db.insert_call(org).await;
        db.run(format!("insert into invoices (org_id, total) values ('{org}', 1)")).await;
    }
}

/// Writes to watched tables as an application does.
pub(super) async fn write(db: &TestDb) {
    let org = db.create_org().await;
    db.insert_call(org).await;
    db.run(format!("insert into invoices (org_id, total) values ('{org}', 7); update invoices set total = 8 where total = 7"))
        .await;
}

pub(super) async fn objects(db: &TestDb) -> Vec<String> {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    catalog(&mut connection).await
}

pub(super) const REGISTRY: &str =
    "select t::text from warden.tenant_tables t union all select w::text from warden.watches w
                        union all select t::text from warden.topics t order by 1";
const CORE: &str = "select count(*) from warden.tenant_tables where origin = 'core'";

#[tokio::test]
async fn every_form_of_a_full_dump_is_complete() {
    if !has_programs() {
        return;
    }
    let db = in_use().await;
    let (wanted, registry) = (objects(&db).await, texts(&db, REGISTRY).await);
    let dir = Scratch::new(&db);
    for (name, args) in [("plain", &["-Fp"][..]), ("custom", &["-Fc"]), ("directory", &["-Fd", "-j2"])] {
        let to = dir.0.join(name);
        dump(&db, args, &to);
        let target = TestDb::create_from("template0").await;
        if name == "plain" {
            run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&to).arg(target.url()));
        } else {
            run("pg_restore", |c| c.args(["-j2", "--exit-on-error", "-d", target.url()]).arg(&to));
        }
        assert_eq!(texts(&target, REGISTRY).await, registry, "{name}");
        assert_eq!(migrate(target.url()).await.expect("migrates").applied, Vec::new(), "{name}");
        assert_eq!(objects(&target).await, wanted, "{name}");
        write(&target).await;
    }
}

#[tokio::test]
async fn a_template_copy_is_complete() {
    let db = in_use().await;
    let wanted = objects(&db).await;
    db.pool.close().await;
    let copy = TestDb::create_from(&db.name).await;
    assert_eq!(migrate(copy.url()).await.expect("migrates").applied, Vec::new());
    assert_eq!(objects(&copy).await, wanted);
    write(&copy).await;
}

#[tokio::test]
async fn a_dump_without_owners_and_rights_is_completed() {
    if !has_programs() {
        return;
    }
    let db = in_use().await;
    let dir = Scratch::new(&db);
    // Rights on the tables of an application are the operator's. All others are Warden's.
    let own = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|l| !l.starts_with("table ") || l.starts_with("table warden.")).collect()
    };
    let wanted = own(objects(&db).await);
    for args in [&["--no-owner"][..], &["--no-privileges"], &["--no-owner", "--no-privileges"]] {
        let to = dir.0.join("dump");
        dump(&db, args, &to);
        let target = TestDb::create_from("template0").await;
        run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&to).arg(target.url()));
        write(&target).await;
        let migrated = migrate(target.url()).await.expect("migrates");
        assert_eq!(migrated.applied.len(), migrated.total, "{args:?}: the schema was damaged");
        assert_eq!(own(objects(&target).await), wanted, "{args:?}");
        write(&target).await;
    }
}

#[tokio::test]
async fn the_schema_alone_accepts_writes_and_is_completed() {
    if !has_programs() {
        return;
    }
    let db = in_use().await;
    let wanted = objects(&db).await;
    let dir = Scratch::new(&db);
    let (schema, data) = (dir.0.join("schema"), dir.0.join("data"));
    dump(&db, &["--schema-only"], &schema);
    dump(&db, &["--data-only", "--disable-triggers"], &data);

    let target = TestDb::create_from("template0").await;
    run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&schema).arg(target.url()));
    write(&target).await;
    assert!(count(&target, "select count(*) from warden.events where topic = 'invoices'").await > 0);
    migrate(target.url()).await.expect("completes");
    assert_eq!(count(&target, CORE).await, 2);
    assert_eq!(objects(&target).await, wanted);
    write(&target).await;

    // The data on top of the schema gives the whole database.
    let target = TestDb::create_from("template0").await;
    run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&schema).arg(target.url()));
    run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&data).arg(target.url()));
    assert_eq!(texts(&target, REGISTRY).await, texts(&db, REGISTRY).await);
    assert_eq!(migrate(target.url()).await.expect("migrates").applied, Vec::new());
    write(&target).await;
}

/// Renames both columns of a key, so that one gets the other's name, and the omitted column. Column numbers
/// change in the restore because a column was dropped. Without the event trigger, the watch has the former
/// names.
#[tokio::test]
async fn a_watch_with_renamed_columns_survives_a_restore_or_truncates_its_rows() {
    if !has_programs() {
        return;
    }
    for follows in [true, false] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        let trigger = if follows { "" } else { "alter event trigger warden_refresh_watches disable;" };
        db.run(format!(
            "create table lots (former int, org_id uuid not null, shelf int, place int, secret text, n int,
                                primary key (org_id, shelf, place));
             select warden.watch('lots', 'lots', 'lot', omit_columns => '{{secret}}', visibility => 'organisation');
             alter table lots drop column former;
             {trigger}
             alter table lots rename shelf to place_before;
             alter table lots rename place to shelf;
             alter table lots rename place_before to place;
             alter table lots rename secret to note"
        ))
        .await;
        let dir = Scratch::new(&db);
        let to = dir.0.join("dump");
        dump(&db, &["-Fc"], &to);
        let target = TestDb::create_from("template0").await;
        run("pg_restore", |c| c.args(["--exit-on-error", "-d", target.url()]).arg(&to));
        target
            .run(format!(
                "insert into lots (org_id, place, shelf, note, n) values ('{org}', 1, 2, 'hidden', 3);
                 update lots set n = 4; update lots set shelf = 5"
            ))
            .await;
        // The dump contains the resync of the changes that the event trigger followed.
        let mut events = texts(&target, LOT_EVENTS).await;
        events.retain(|event| event != "resync");
        let expected: [&str; 4] = if follows {
            ["created 1 2 3", "updated 1 2 4 {\"n\": 3}", "deleted 1 2 4", "created 1 5 4"]
        } else {
            [
                "created 1 2 truncated",
                "updated 1 2 truncated",
                "deleted 1 2 truncated",
                "created 1 5 truncated",
            ]
        };
        assert_eq!(events, expected, "follows: {follows}");
        target.run("select warden.refresh_watches()").await;
        let unfit = texts(&target, "select warden.unfit_watches()").await;
        assert_eq!(unfit, if follows { vec![] } else { vec!["public.lots"] }, "follows: {follows}");
        assert_eq!(count(&target, "select count(*) from warden.events where data::text ~ 'hidden'").await, 0);
    }
}

/// The events of `lots`: the key by its present names, what else the row has, and the former values.
const LOT_EVENTS: &str =
    "select concat_ws(' ', split_part(event, '.', 2), data ->> 'place', data ->> 'shelf', data ->> 'n',
                            old::text, case when truncated then 'truncated' end)
                          from warden.events where topic = 'lots' order by id";

/// Changes of a table's columns that no event trigger follows, between the watch and the dump. Each has a
/// name, the arguments of the watch, the change, and the event of an updated row in the restored database.
const UNNOTICED: [(&str, &str, &str, &str); 6] = [
    ("omitted", "omit_columns => '{secret}'", "swap(secret, n)", "lot.updated k truncated"),
    ("strings", "as_text => '{total}'", "swap(total, m)", "lot.updated k truncated"),
    ("keyed", "omit_columns => '{secret}'", "swap(id, secret)", "warden.resync"),
    ("owned", "omit_columns => '{}'", "swap(org_id, owner)", "warden.resync"),
    ("longer", "omit_columns => '{secret}'", "add column extra int", "lot.updated k truncated"),
    ("whole", "omit_columns => '{}'", "add column extra int", "lot.updated k"),
];

/// The statements of such a change.
fn change(table: &str, change: &str) -> String {
    let Some(names) = change.strip_prefix("swap(") else {
        return format!("alter table {table} {change};");
    };
    let (one, other) = names.trim_end_matches(')').split_once(", ").expect("two columns");
    format!(
        "alter table {table} rename {one} to former; alter table {table} rename {other} to {one};
         alter table {table} rename former to {other};"
    )
}

#[tokio::test]
async fn a_column_that_took_the_name_of_another_one_is_not_trusted_after_a_restore() {
    if !has_programs() {
        return;
    }
    let db = TestDb::create().await;
    let org = db.create_org().await;
    for (table, arguments, ..) in UNNOTICED {
        db.run(format!(
            "create table {table} (id text primary key, org_id uuid not null, owner uuid not null,
                                   secret text not null unique, n text not null, total numeric, m numeric not null);
             insert into {table} values ('k', '{org}', gen_random_uuid(), 'hidden', 'n', 0.1, 1);
             select warden.watch('{table}', '{table}', 'lot', {arguments}, visibility => 'organisation')"
        ))
        .await;
    }
    let changes: String = UNNOTICED.iter().map(|(table, _, what, _)| change(table, what)).collect();
    db.run(format!("alter event trigger warden_refresh_watches disable; {changes}")).await;
    let dir = Scratch::new(&db);
    let to = dir.0.join("dump");
    dump(&db, &["-Fc"], &to);
    let target = TestDb::create_from("template0").await;
    run("pg_restore", |c| c.args(["--exit-on-error", "-d", target.url()]).arg(&to));

    let unclear: Vec<_> = UNNOTICED.iter().map(|c| c.0).filter(|table| *table != "whole").collect();
    for is_migrated in [false, true] {
        for (table, .., expected) in UNNOTICED {
            let last = count(&target, "select max(id) from warden.events").await;
            target.run(format!("update {table} set m = coalesce(m, 0) + 1")).await;
            let query = format!(
                "select concat_ws(' ', event, data ->> 'id', case when truncated then 'truncated' end)
                 from warden.events where id > {last} order by id"
            );
            assert_eq!(texts(&target, &query).await, [expected], "{table}, migrated: {is_migrated}");
        }
        warden(&target, &["migrate"]).await;
        let mut unfit = texts(&target, "select warden.unfit_watches()").await;
        unfit.sort_unstable_by_key(|name| unclear.iter().position(|t| name.ends_with(t)));
        assert_eq!(unfit, unclear.iter().map(|table| format!("public.{table}")).collect::<Vec<_>>());
    }
    let hidden = "select count(*) from warden.events where data::text ~ 'hidden' and topic in ('omitted', 'keyed', 'longer')";
    assert_eq!(count(&target, hidden).await, 0);

    // The operator knows the columns.
    let report = audit(&target).await;
    for table in unclear {
        let table = format!("public.{table}");
        let found = report["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|f| f["rule"] == "watch-columns" && f["table"] == *table);
        let choices = &found.unwrap_or_else(|| panic!("{table}: {report:#}"))["remedy"]["choices"];
        // With the second choice, the operator does not know them, or needs no events.
        for choice in [1, 0] {
            assert_eq!(count(&target, hidden).await, 0, "{table}");
            target.run(choices[choice]["text"].as_str().expect("a statement").to_owned()).await;
            let unfit = format!("select count(*) from warden.unfit_watches() u where u = '{table}'");
            assert_eq!(count(&target, &unfit).await, 0, "{table}");
            target.run(format!("update {table} set m = coalesce(m, 0) + 1")).await;
        }
        // The names are not the right ones, but the operator said so.
        target.run("delete from warden.events").await;
    }
}

/// The schema alone loses the registry and the watches. The audit prints the calls that restore them, and
/// `warden migrate` those of the watches.
#[tokio::test]
async fn a_restore_without_data_is_completed_by_the_printed_calls() {
    if !has_programs() {
        return;
    }
    let db = in_use().await;
    db.run(
        "create table lines (id int primary key, invoice uuid references invoices);
         select warden.adopt_table('lines', null, 'invoices', 'invoice')",
    )
    .await;
    warden(&db, &["migrate", "--enforce", "--yes"]).await;
    db.run("select warden.watch('lines', 'lines', 'line', omit_columns => '{invoice}', visibility => 'organisation', filter_columns => '{org_id}')")
        .await;
    let wanted = texts(&db, LOST).await;
    let dir = Scratch::new(&db);
    let schema = dir.0.join("schema");
    dump(&db, &["--schema-only"], &schema);
    let target = TestDb::create_from("template0").await;
    run("psql", |c| c.args(["-qX", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&schema).arg(target.url()));
    for args in [&["migrate", "--plan"][..], &["migrate"]] {
        let printed = String::from_utf8(warden(&target, args).await).expect("text");
        for call in wanted.iter().filter(|line| line.starts_with("select warden.watch(")) {
            assert!(printed.contains(call), "{args:?} does not print {call}: {printed}");
        }
    }
    assert_eq!(texts(&target, LOST).await, Vec::<String>::new());
    let report = audit(&target).await;
    let mut calls: Vec<String> = Vec::new();
    for (table, rule, names) in [
        ("public.invoices", "unregistered-table", "policy warden_org"),
        ("public.lines", "unregistered-table", "trigger warden_require_org_id"),
        ("public.invoices", "watch-triggers", "warden_log_update"),
        ("public.lines", "watch-triggers", "warden_log_delete"),
    ] {
        let found = report["findings"].as_array().expect("a list").iter().find(|f| {
            f["rule"] == rule && f["table"] == table && f["cause"].as_str().is_some_and(|c| c.contains(names))
        });
        let remedy = &found.unwrap_or_else(|| panic!("{table} {rule}: {report:#}"))["remedy"];
        calls.push(remedy["choices"][0]["text"].as_str().expect("statements").to_owned());
    }
    for call in calls {
        target.run(call).await;
    }
    assert_eq!(texts(&target, LOST).await, wanted);
    let printed = String::from_utf8(warden(&target, &["migrate"]).await).expect("text");
    assert!(!printed.contains("is not watched"), "{printed}");
    let report = audit(&target).await;
    let tables = ["public.invoices", "public.lines"];
    let left: Vec<_> = report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|f| tables.iter().any(|table| f["table"] == *table) && f["severity"] == "finding")
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Registry entries and watches that a restore without data loses.
const LOST: &str = "select t::text from warden.tenant_tables t where origin = 'application'
                    union all select warden.watch_call(w) from warden.watches w where relation::text in ('invoices', 'lines') order by 1";

/// Standard output of a command.
pub(super) async fn warden(db: &TestDb, args: &[&str]) -> Vec<u8> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_warden"));
    command.args(args).env_clear().env("DATABASE_URL", db.url());
    command.output().await.expect("runs").stdout
}

pub(super) async fn audit(db: &TestDb) -> serde_json::Value {
    serde_json::from_slice(&warden(db, &["audit", "--json"]).await).expect("a report")
}

#[tokio::test]
async fn other_encodings_are_rejected_before_anything_is_changed() {
    let first = TestDb::create().await;
    for (encoding, locale) in [("SQL_ASCII", "C"), ("LATIN1", "C"), ("EUC_JP", "C")] {
        let name = format!("encoded_{}_{}", encoding.to_lowercase(), first.name);
        first
            .run(format!(
                "create database {name} encoding '{encoding}' lc_collate '{locale}' lc_ctype '{locale}' template template0"
            ))
            .await;
        let url = shared_cluster_url(&name, SUPERUSER);
        let error = format!("{:#}", migrate(&url).await.expect_err("rejected"));
        assert!(error.contains(&format!("has the encoding {encoding}, and Warden needs UTF8")), "{error}");
        let db = TestDb::at(&name, &url, &url).await;
        assert_eq!(count(&db, "select count(*) from pg_namespace where nspname = 'warden'").await, 0);
    }
}
