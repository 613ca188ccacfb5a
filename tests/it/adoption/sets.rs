//! `warden migrate` without `--platform`, on the core alone and after the platform was chosen.

use super::{
    ACCEPTED, RUN_DEADLINE, Run, assert_adopted, bare_db, connect, ended, legacy_db, tables_with_null, warden,
};

async fn plain(url: &str, args: &[&str]) -> Run {
    let mut command = warden(url, "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

#[tokio::test]
async fn the_core_alone_has_nothing_to_adopt() {
    let db = bare_db("create table calls (id int primary key)").await;
    let plan = plain(db.url(), &["--plan"])
        .await
        .must(0)
        .says(&["would apply core 0001", "would be created: organization_members, organizations"]);
    assert!(!plan.stdout.contains("platform") && !plan.stdout.contains("calls"), "{}", plan.stdout);
    let first = plain(db.url(), &[]).await.must(0).says(&["applied core 0001 roles"]);
    assert!(!first.stdout.contains("calls"), "{}", first.stdout);
    plain(db.url(), &[]).await.must(0).idle();
    plain(db.url(), &["--enforce", "--yes"]).await.must(0).says(&["the database isolates organisations"]);
    plain(db.url(), &["--relax", "--yes"]).await.must(0);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
}

#[tokio::test]
async fn a_table_with_rows_is_adopted_on_the_core_alone() {
    let db = bare_db("create table invoices (id int primary key); insert into invoices values (1)").await;
    plain(db.url(), &[]).await.must(0);
    db.run("select warden.adopt_table('invoices', uses_default_organization => true)").await;
    plain(db.url(), &["--plan"]).await.must(0).says(&["invoices (1 row)", "fill org_id"]);
    plain(db.url(), &[]).await.must(0).says(&["every row has an organisation"]);
    assert_adopted(&db, "invoices").await;
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
}

#[tokio::test]
async fn the_platform_is_chosen_once() {
    let db = legacy_db().await;
    plain(db.url(), &["--accept", ACCEPTED]).await.must(0);
    let registered = "select count(*) from warden.tenant_tables where origin = 'platform'";
    let mut admin = connect(&db).await;
    let before: i64 = sqlx::query_scalar(registered).fetch_one(&mut admin).await.expect("counts");
    assert_eq!(before, 0);
    plain(db.url(), &["--platform"]).await.must(0).says(&["applied platform 0001 registry"]);
    assert_eq!(tables_with_null(&mut admin).await, Vec::<String>::new());
    plain(db.url(), &[]).await.must(0).idle();
}

/// A table that the application creates later under a name of the platform is a candidate: nobody chose it.
#[tokio::test]
async fn a_later_table_with_a_name_of_the_platform_is_not_adopted_unasked() {
    let db = bare_db(
        "create table calls (id uuid primary key, user_id uuid); create table dnc_list (id int primary key)",
    )
    .await;
    plain(db.url(), &["--platform"]).await.must(0);
    let mut admin = connect(&db).await;
    let mut adopted = async || -> String {
        sqlx::query_scalar(
            "select coalesce(string_agg(attrelid::regclass::text, ' ' order by attrelid::regclass::text), '')
             from pg_attribute where attname = 'org_id' and attrelid::regclass::text in ('calls', 'leads', 'dnc_list')",
        )
        .fetch_one(&mut admin)
        .await
        .expect("reads")
    };
    assert_eq!(adopted().await, "calls dnc_list");
    // One name was free, the other belonged to an adopted table.
    db.run("drop table dnc_list; create table leads (id int primary key); create table dnc_list (id int primary key)")
        .await;
    for args in [["--plan"].as_slice(), &[], &["--plan"], &[]] {
        let run = plain(db.url(), args).await.must(0);
        for name in ["leads", "dnc_list"] {
            assert!(run.stdout.contains(&format!("public.{name}")), "{args:?}: {}", run.stdout);
        }
        assert!(
            run.stdout.contains("it has the name of a table of the platform"),
            "{args:?}: {}",
            run.stdout
        );
        assert_eq!(adopted().await, "calls", "{args:?}");
    }
    plain(db.url(), &["--tables", "leads organization=default"]).await.must(0);
    assert_eq!(adopted().await, "calls leads");
    plain(db.url(), &["--platform"]).await.must(0);
    assert_eq!(adopted().await, "calls dnc_list leads");
}

/// An owner without BYPASSRLS adopts tables that it creates after Warden, until the database isolates
/// organisations. From then on they are hidden from it.
#[tokio::test]
async fn an_owner_adopts_later_tables_without_bypassrls_until_organisations_are_isolated() {
    let db = bare_db(
        "do $$ begin
           if not exists (select from pg_roles where rolname = 'no_bypass') then create role no_bypass login createrole; end if;
           execute format('grant create on database %I to no_bypass', current_database());
         end $$;
         grant warden_owner to no_bypass;
         alter schema public owner to no_bypass",
    )
    .await;
    let url = crate::harness::shared_cluster_url(&db.name, "no_bypass");
    plain(&url, &[]).await.must(0);
    let create = async |table: &str| {
        db.run(format!(
            "set role no_bypass;
             create table {table} (id int primary key, user_id uuid);
             insert into {table} values (1, null), (2, gen_random_uuid());
             select warden.adopt_table('{table}', 'user_id', uses_default_organization => true); reset role",
        ))
        .await;
    };
    create("invoices").await;
    plain(&url, &[]).await.must(0).says(&["every row has an organisation"]);
    assert_adopted(&db, "invoices").await;
    plain(&url, &["--enforce", "--yes"]).await.must(0);

    create("payments").await;
    plain(&url, &[])
        .await
        .must(1)
        .says(&["issue: payments: backfill: ", "or as an owner of the tables with BYPASSRLS"]);
    db.run("alter role no_bypass bypassrls").await;
    plain(&url, &[]).await.must(0).says(&["every row has an organisation"]);
    assert_adopted(&db, "payments").await;
    plain(&url, &["--enforce", "--yes"]).await.must(0);
}
