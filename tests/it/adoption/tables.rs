//! Which tables are adopted: those that the operator names, and no others.

use std::collections::BTreeMap;
use std::io::Write as _;

use sqlx::Row as _;

use super::terminal::answered;
use super::{RUN_DEADLINE, Run, assert_adopted, bare_db, connect, ended, warden};
use crate::harness::TestDb;

async fn plain(url: &str, args: &[&str]) -> Run {
    let mut command = warden(url, "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// An application with derivations of every kind: by organisation, by parent, by user, and none.
const APPLICATION: &str = "
    create schema crm;
    create table calls (id uuid primary key default gen_random_uuid(), \"ownerId\" uuid not null);
    create table crm.note (id int primary key, call_id uuid not null references calls on delete cascade, created_by uuid);
    create table \"Note Tags\" (id int primary key, \"noteId\" int references crm.note, label text);
    create table settings (key text primary key, value text);
    create table countries (code text primary key);
    create view calls_today as select * from calls;
    insert into calls (\"ownerId\") select gen_random_uuid() from generate_series(1, 3);
    insert into crm.note select row_number() over (), id, gen_random_uuid() from calls;
    insert into \"Note Tags\" values (1, 1, 'a'), (2, 2, 'b');
    insert into settings values ('a', 'b'); insert into countries values ('ch')";

/// Definitions of everything outside schema `warden`, by name.
pub(super) async fn catalog(db: &TestDb) -> BTreeMap<String, String> {
    let rows = sqlx::query(include_str!("sql/catalog.sql")).fetch_all(&mut connect(db).await).await;
    rows.expect("reads").iter().map(|row| (row.get("object"), row.get("definition"))).collect()
}

/// Objects of `before` that are missing or differ.
async fn changed(db: &TestDb, before: &BTreeMap<String, String>) -> Vec<String> {
    let now = catalog(db).await;
    before
        .iter()
        .filter(|(name, definition)| now.get(*name) != Some(*definition))
        .map(|(name, _)| name.clone())
        .collect()
}

async fn registered(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar(
        "select format('%s: %s %s %s', table_name, coalesce(parent_table, '-'), coalesce(parent_column, '-'),
                coalesce(user_column, '-'))
         from warden.tenant_tables where origin = 'application' order by table_name",
    )
    .fetch_all(&mut connect(db).await)
    .await
    .expect("reads")
}

#[tokio::test]
async fn without_a_list_no_table_is_adopted_and_candidates_are_printed() {
    let db = bare_db(APPLICATION).await;
    let before = catalog(&db).await;
    for args in [&["--plan"][..], &[], &[], &["--enforce", "--yes"], &["--relax", "--yes"]] {
        plain(db.url(), args).await.must(0);
        assert_eq!(changed(&db, &before).await, Vec::<String>::new(), "{args:?}");
    }
    let run = plain(db.url(), &[]).await.must(0).says(&[
        "3 tables look like an organisation's, and are not adopted:",
        "crm.note            call_id references public.calls, user column created_by",
        "public.calls        user column \"ownerId\"",
        "warden migrate --tables 'crm.note,public.\"Note Tags\",public.calls'",
    ]);
    assert!(!run.stdout.contains("countries") && !run.stdout.contains("settings"), "{}", run.stdout);
}

#[tokio::test]
async fn listed_tables_are_adopted_with_the_derivation_that_is_printed() {
    let db = bare_db(APPLICATION).await;
    let before = catalog(&db).await;
    let list = "crm.note,public.Note Tags,calls";
    plain(db.url(), &["--tables", list]).await.must(1);
    assert_eq!(changed(&db, &before).await, Vec::<String>::new(), "an option without a value is a mistake");
    let list = "crm.note,\"Note Tags\",calls";
    plain(db.url(), &["--plan", "--tables", list, "--default-organization"]).await.must(0).says(&[
        "crm.note gets the organisation of public.calls by call_id, else the membership of created_by",
        "calls (3 rows)",
    ]);
    assert_eq!(changed(&db, &before).await, Vec::<String>::new());
    plain(db.url(), &["--tables", list, "--default-organization"]).await.must(0).says(&[
        "note: public.calls gets the membership of ownerId, else the default organisation",
        "note: public.\"Note Tags\" gets the organisation of crm.note by noteId, else the default organisation",
        "every row has an organisation",
    ]);
    assert_eq!(
        registered(&db).await,
        ["Note Tags: note noteId -", "calls: - - ownerId", "note: calls call_id created_by"]
    );
    for table in ["calls", "note", "Note Tags"] {
        assert_adopted(&db, table).await;
    }
    // A second time there is nothing to do, and other tables were left alone.
    plain(db.url(), &["--tables", list]).await.must(0).idle();
    for args in [&[][..], &["--enforce", "--yes"], &["--relax", "--yes"]] {
        plain(db.url(), args).await.must(0);
        for name in changed(&db, &before).await {
            let is_listed =
                ["public.calls", "crm.note", "public.Note Tags"].iter().any(|t| name.ends_with(t));
            assert!(is_listed, "{args:?}: {name}");
        }
    }
}

/// Rows never go to the default organisation silently.
#[tokio::test]
async fn a_table_that_names_neither_parent_nor_user_needs_an_option() {
    let db = bare_db(APPLICATION).await;
    let before = catalog(&db).await;
    plain(db.url(), &["--tables", "calls,settings"]).await.must(1).says(&[
        "issue: calls: nothing says to which organisation their rows belong. Warden would put them all",
        "calls: 3 rows, ownerId names no member of an organisation",
        "issue: public.settings: has no foreign key to a table of organisations and no column with a user",
        "'public.settings organization=default'",
    ]);
    assert!(changed(&db, &before).await.iter().all(|name| !name.contains("settings")));
    // A child without its parent is no better.
    plain(db.url(), &["--tables", "\"Note Tags\""])
        .await
        .must(1)
        .says(&["inherits its organisation from crm.note, which is not adopted", "List crm.note as well"]);
    plain(
        db.url(),
        &[
            "--default-organization",
            "--tables",
            "settings, crm.note parent=calls parent_column=call_id, calls",
        ],
    )
    .await
    .must(0);
    assert_eq!(registered(&db).await, ["calls: - - ownerId", "note: calls call_id -", "settings: - - -"]);
}

/// A row that names its organisation belongs there, whatever its user's memberships are.
#[tokio::test]
async fn a_foreign_key_to_organizations_gives_the_organisation() {
    let db = bare_db("create table things (id int primary key)").await;
    plain(db.url(), &[]).await.must(0);
    db.run(
        "insert into organizations (id, name) values ('b0000000-0000-0000-0000-000000000001', 'b');
         insert into organization_members (org_id, user_id)
           values ('a0000000-0000-0000-0000-000000000001', 'c0000000-0000-0000-0000-000000000001');
         create table projects (id int primary key, \"organizationId\" uuid references organizations, user_id uuid);
         insert into projects values
           (1, 'b0000000-0000-0000-0000-000000000001', 'c0000000-0000-0000-0000-000000000001'),
           (2, null, 'c0000000-0000-0000-0000-000000000001')",
    )
    .await;
    plain(db.url(), &["--tables", "projects"]).await.must(0).says(&[
        "public.projects gets the organisation that organizationId names, else the membership of user_id",
    ]);
    db.run("insert into projects values (3, 'b0000000-0000-0000-0000-000000000001', null)").await;
    let orgs: Vec<String> = sqlx::query_scalar("select left(org_id::text, 1) from projects order by id")
        .fetch_all(&mut connect(&db).await)
        .await
        .expect("reads");
    assert_eq!(orgs, ["b", "a", "b"]);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
    // Roles of other tests in this cluster may bypass row-level security.
    let audit = super::audit(db.url()).await;
    assert!(!audit.stdout.contains("projects"), "{}", audit.stdout);
}

#[tokio::test]
async fn every_wrong_name_is_reported_and_nothing_is_changed() {
    let db = bare_db(APPLICATION).await;
    db.run(
        "create table parts (id int) partition by range (id);
         create table parts_1 partition of parts for values from (1) to (9);
         create materialized view totals as select count(*) from calls; create sequence numbers;
         create table \"Twice\" (id int); create table twice (id int)",
    )
    .await;
    let before = catalog(&db).await;
    let list = "calls, calls_today, nothing, note, parts_1, totals, numbers, pg_catalog.pg_class, Twice,
                settings user_column=nobody, countries parent=nowhere parent_column=code parent_key=id";
    for args in [&["--tables", list][..], &["--plan", "--tables", list]] {
        plain(db.url(), args).await.must(1).says(&[
            "public.calls_today: is a view",
            "public.nothing: does not exist",
            "public.note: does not exist. Is it crm.note?",
            "public.parts_1: is a part of public.parts: name the whole",
            "public.totals: is a materialized view",
            "public.numbers: is not a table",
            "pg_catalog.pg_class: is a table of PostgreSQL",
            "public.Twice: could be several tables",
            "public.settings: has no column \"nobody\"",
            "public.countries: has the parent public.nowhere, which does not exist",
        ]);
    }
    assert_eq!(changed(&db, &before).await, Vec::<String>::new());
    let schemas: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname = 'warden'")
        .fetch_one(&mut connect(&db).await)
        .await
        .expect("counts");
    assert_eq!(schemas, 0);
}

#[tokio::test]
async fn a_file_lists_one_table_per_line() {
    let db = bare_db(APPLICATION).await;
    let path = std::env::temp_dir().join(format!("{}.tables", db.name));
    let mut file = std::fs::File::create(&path).expect("creates");
    file.write_all(b"# The call centre\ncalls\n\ncrm.note  parent=calls parent_column=call_id  # by call\n")
        .expect("writes");
    plain(db.url(), &["--tables", &format!("@{}", path.display()), "--default-organization"]).await.must(0);
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(registered(&db).await, ["calls: - - ownerId", "note: calls call_id -"]);
    let missing = plain(db.url(), &["--tables", "@/nowhere/tables"]).await.must(1);
    assert!(missing.stderr.contains("cannot read the list of tables /nowhere/tables"), "{}", missing.stderr);
}

/// `script` runs the command on a terminal of its own.
#[tokio::test]
async fn a_terminal_asks_which_candidates_to_adopt() {
    for (answer, expected) in [
        ("1 3\n", vec!["calls: - - ownerId", "note: calls call_id created_by"]),
        (
            "9\nall\n",
            vec!["Note Tags: note noteId -", "calls: - - ownerId", "note: calls call_id created_by"],
        ),
        ("calls\n", vec!["calls: - - ownerId"]),
        ("\n", vec![]),
    ] {
        let db = bare_db(APPLICATION).await;
        let (code, screen) = answered(&db, "--default-organization", "Adopt which?", answer).await;
        assert_eq!(code, 0, "{answer:?}: {screen}");
        assert_eq!(registered(&db).await, expected, "{answer:?}: {screen}");
    }
}

#[tokio::test]
async fn the_platform_lists_and_adopts_its_own_tables_only() {
    let db = bare_db(
        "create table calls (id uuid primary key, user_id uuid); create table tickets (id int primary key, user_id uuid)",
    )
    .await;
    let before = catalog(&db).await;
    plain(db.url(), &["--platform"]).await.must(0);
    let touched = changed(&db, &before).await;
    assert!(touched.iter().all(|name| !name.contains("tickets")), "{touched:?}");
    assert_adopted(&db, "calls").await;
}

/// Rows belong where their required parent belongs, even if an optional parent is known earlier.
#[tokio::test]
async fn the_best_parent_gives_the_organisation_whatever_the_order_of_the_tables() {
    let db = bare_db(
        "create table deals (id int primary key, user_id uuid);
         create table hints (id int primary key, deal_id int references deals on delete set null,
                             account_id int not null, plan_id int not null);
         create table accounts (id int primary key, user_id uuid);
         create table plans (id int primary key, user_id uuid, best_account_id int references accounts);
         alter table accounts add plan_id int references plans;
         alter table hints add foreign key (account_id) references accounts on delete cascade,
                           add foreign key (plan_id) references plans",
    )
    .await;
    plain(db.url(), &["--tables", "deals,hints,accounts,plans"]).await.must(0);
    // Accounts and plans reference each other, so one of them gets the organisation of its user.
    let found = registered(&db).await;
    assert!(found.contains(&"hints: accounts account_id -".to_owned()), "{found:?}");
}
