//! `warden migrate` without `--platform`, on the core alone and after the platform was chosen.

use super::{
    ACCEPTED, RUN_DEADLINE, Run, assert_adopted, connect, ended, legacy_db, small_db, tables_with_null,
    warden,
};

async fn plain(url: &str, args: &[&str]) -> Run {
    let mut command = warden(url, "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

#[tokio::test]
async fn the_core_alone_has_nothing_to_adopt() {
    let db = small_db("create table calls (id int primary key)").await;
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
    let db = small_db("create table invoices (id int primary key); insert into invoices values (1)").await;
    plain(db.url(), &[]).await.must(0);
    db.run("select warden.adopt_table('invoices')").await;
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
    // A table of the platform that comes later is adopted without the flag.
    db.run("drop table dnc_list; create table dnc_list (id int primary key, user_id uuid); insert into dnc_list values (1)")
        .await;
    plain(db.url(), &[]).await.must(0);
    assert_eq!(tables_with_null(&mut admin).await, Vec::<String>::new());
}

/// On an empty database organisations are protected from the start, and hidden from their owner as well.
#[tokio::test]
async fn adoption_beside_protected_tables_needs_bypassrls() {
    let db = small_db(
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
    db.run(
        "set role no_bypass;
         create table invoices (id int primary key, user_id uuid); insert into invoices values (1, null), (2, gen_random_uuid());
         select warden.adopt_table('invoices', 'user_id'); reset role",
    )
    .await;
    plain(&url, &[])
        .await
        .must(1)
        .says(&["issue: invoices: backfill: ", "or as an owner of the tables with BYPASSRLS"]);
    db.run("alter role no_bypass bypassrls").await;
    plain(&url, &[]).await.must(0).says(&["every row has an organisation"]);
    assert_adopted(&db, "invoices").await;
    plain(&url, &["--enforce", "--yes"]).await.must(0);
}
