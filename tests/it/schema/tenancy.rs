//! The functions that isolate a table: fill trigger, immutability trigger, policies, and
//! `warden.adopt_table`.

use uuid::Uuid;

use super::{count, rejection, texts};
use crate::harness::TestDb;

const DEFAULT: &str = "a0000000-0000-0000-0000-000000000001";

#[tokio::test]
async fn the_fill_trigger_sets_the_organisation_of_new_rows() {
    let db = TestDb::create().await;
    let (org, other, user) = (db.create_org().await, db.create_org().await, Uuid::new_v4());
    let theirs = db.insert_call(other).await;
    db.run(format!(
        "insert into organization_members (org_id, user_id) values ('{org}', '{user}');
         create table memos (n int primary key, author text, call uuid);
         insert into memos values (0);
         select warden.adopt_table('memos', 'author', 'calls', 'call', uses_default_organization => true);
         alter table memos add org_id uuid;
         select warden.fill_org_id('memos'); select warden.fill_org_id('memos')"
    ))
    .await;
    // The writing role has no right to read memberships or calls.
    let role = format!("writer_{}", db.name);
    db.run(format!("create role {role}; grant insert on memos to {role}")).await;
    let nobody = Uuid::new_v4();
    let writes = format!(
        "insert into memos (n, author, call) values (1, '{user}', null), (2, 'not a uuid', null), (3, '{nobody}', null),
           (4, '{user}', '{theirs}'), (5, '{user}', '{nobody}'), (6, null, null);
         insert into memos (n, org_id) values (7, '{other}')"
    );
    db.run(format!("begin; set local role {role}; {writes}; commit")).await;
    let filled = texts(&db, "select coalesce(org_id::text, 'none') from memos order by n").await;
    let (org, other) = (org.to_string(), other.to_string());
    assert_eq!(filled, ["none", &org, DEFAULT, DEFAULT, &other, &org, DEFAULT, &other]);
    // If the parent has no organisation yet, the child gets none either.
    db.run(
        "create table parents (id int primary key, org_id uuid); insert into parents values (1, null);
         create table children (id int, parent int); insert into children values (0, 1);
         select warden.adopt_table('parents'); select warden.adopt_table('children', null, 'parents', 'parent');
         alter table children add org_id uuid; select warden.fill_org_id('children');
         insert into children values (1, 1)",
    )
    .await;
    assert_eq!(count(&db, "select count(*) from children where org_id is null").await, 2);
    db.run("select warden.unfill_org_id('memos'); select warden.unfill_org_id('memos'); insert into memos (n) values (8)").await;
    assert_eq!(count(&db, "select count(*) from memos where org_id is null").await, 2);
    assert_eq!(count(&db, "select count(*) from pg_proc where proname = 'fill public.memos'").await, 0);
    let never = rejection(&db, "select warden.fill_org_id('organization_members')").await;
    assert!(never.message.contains("is never filled"), "{never:?}");
}

#[tokio::test]
async fn the_immutability_trigger_lets_rows_get_an_organisation_once() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run("create table memos (n int, org_id uuid); insert into memos values (1); select warden.guard_org_id('memos')").await;
    db.run(format!("update memos set org_id = '{org}'; update memos set org_id = '{org}', n = 2")).await;
    for to in [format!("'{other}'"), "null".to_owned()] {
        let rejected = rejection(&db, &format!("update memos set org_id = {to}")).await;
        assert_eq!(rejected.sqlstate, "23514", "{rejected:?}");
    }
    // A disabled trigger is enabled again.
    db.run("alter table memos disable trigger warden_org_id_immutable; select warden.guard_org_id('memos')")
        .await;
    assert_eq!(rejection(&db, "update memos set org_id = null").await.sqlstate, "23514");
    db.run("select warden.unguard_org_id('memos'); select warden.unguard_org_id('memos'); update memos set org_id = null").await;
}

#[tokio::test]
async fn unprotect_restores_the_former_state_of_row_security() {
    let db = TestDb::create().await;
    db.run("create table memos (n int, org_id uuid); insert into memos values (1); select warden.adopt_table('memos')").await;
    let state = "select format('%s %s %s', relrowsecurity, relforcerowsecurity,
                   (select count(*) from pg_policy where polrelid = 'memos'::regclass)) from pg_class where oid = 'memos'::regclass";
    for (before, expected) in [
        ("select 1", "f f 0"),
        ("alter table memos enable row level security", "t f 0"),
        ("alter table memos force row level security", "t t 0"),
        ("create policy mine on memos using (true)", "t t 1"),
        ("alter table memos disable row level security", "f t 1"),
        ("alter table memos no force row level security", "f f 1"),
    ] {
        db.run(before).await;
        assert_eq!(texts(&db, state).await, [expected], "before: {before}");
        db.run("select warden.unprotect('memos')").await;
        assert_eq!(texts(&db, state).await, [expected], "nothing of Warden's was there: {before}");
        // In each case warden_org, and one permissive policy, unless the application's policies apply to the
        // owner.
        let added = if expected.starts_with("t t") { 1 } else { 2 };
        let policies = expected[4..].parse::<u32>().expect("a number") + added;
        // Protect twice, and again after a policy was changed: the original state is still recorded.
        for change in [
            "select 1",
            "alter policy warden_org on memos using (true)",
            "drop policy if exists warden_granted on memos",
            "drop policy if exists warden_table_owner on memos",
        ] {
            db.run(format!("select warden.protect('memos'); {change}; select warden.protect('memos')")).await;
            assert_eq!(texts(&db, state).await, [format!("t t {policies}")], "{before}");
            let wrong = "select count(*) from warden.tenant_objects where table_name = 'memos' and kind = 'policy' and not is_valid";
            assert_eq!(count(&db, wrong).await, 0, "{change}");
        }
        db.run("select warden.unprotect('memos')").await;
        assert_eq!(texts(&db, state).await, [expected], "{before}");
    }
}

#[tokio::test]
async fn adopt_table_rejects_unsuitable_arguments_by_name() {
    let db = TestDb::create().await;
    db.run(
        "create table memos (n int); create view shown as select * from memos; create materialized view kept as select * from memos;
         create table split (n int) partition by range (n); create table split_1 partition of split for values from (1) to (2);
         create temporary table passing (n int)",
    )
    .await;
    for (arguments, says) in [
        ("'shown'", "public.shown is not a table"),
        ("'kept'", "public.kept is not a table"),
        ("'split_1'", "public.split_1 is part of public.split"),
        ("'warden.topics'", "warden.topics is not a table"),
        ("'memos', 'author'", "public.memos has no column \"author\" (given as user_column)"),
        ("'memos', parent => 'calls'", "parent and parent_column must be given together"),
        ("'memos', parent_column => 'n'", "parent and parent_column must be given together"),
        ("'memos', null, 'calls', 'call'", "public.memos has no column \"call\" (given as parent_column)"),
        (
            "'memos', null, 'calls', 'n', 'number'",
            "public.calls has no column \"number\" (given as parent_key)",
        ),
        (
            "'memos', null, 'customers', 'n'",
            "rows of the parent public.customers do not belong to organisations",
        ),
    ] {
        let rejected = rejection(&db, &format!("select warden.adopt_table({arguments})")).await;
        assert!(rejected.message.contains(says) && rejected.sqlstate == "22023", "{rejected:?}");
    }
    let unknown = rejection(&db, "select warden.protect('memos')").await;
    assert_eq!(unknown.message, "public.memos is not registered");
    assert_eq!(count(&db, "select count(*) from warden.tenant_tables where origin = 'application'").await, 0);
}

#[tokio::test]
async fn a_table_with_rows_is_registered_but_not_changed() {
    let db = TestDb::create().await;
    db.run("create table memos (n int); insert into memos values (1); select warden.adopt_table('memos')")
        .await;
    let problems = "select distinct problem from warden.tenant_objects where table_name = 'memos'";
    assert_eq!(texts(&db, problems).await, ["is missing"]);
    assert_eq!(
        count(
            &db,
            "select count(*) from pg_attribute where attrelid = 'memos'::regclass and attname = 'org_id'"
        )
        .await,
        0
    );
    // Once the table is empty, another call completes it.
    db.run("delete from memos; select warden.adopt_table('memos'); select warden.adopt_table('memos')").await;
    let problems =
        "select count(*) from warden.tenant_objects where table_name = 'memos' and problem is not null";
    assert_eq!(count(&db, problems).await, 0);
    db.run("create table diaries (n int, owner uuid); select warden.leave_to_user('diaries', 'owner')").await;
    assert_eq!(
        count(
            &db,
            "select count(*) from warden.tenant_objects where table_name = 'diaries' and phase <> 'user'"
        )
        .await,
        0
    );
}

/// PostgreSQL silently truncates long names, and two of them could become equal.
#[tokio::test]
async fn long_names_get_distinct_objects() {
    let db = TestDb::create().await;
    let (long, longer) = ("a".repeat(60), "a".repeat(61));
    for table in [&long, &longer, &"é".repeat(31)] {
        db.run(format!("create table \"{table}\" (n int); select warden.adopt_table('\"{table}\"')")).await;
    }
    let wrong = "select format('%s %s', name, problem) from warden.tenant_objects where problem is not null";
    assert_eq!(texts(&db, wrong).await, Vec::<String>::new());
}

/// No policy restricts TRUNCATE.
#[tokio::test]
async fn protect_revokes_the_right_to_truncate() {
    let db = TestDb::create().await;
    db.run("create table memos (n int); grant all on memos to public, anon, authenticated; select warden.adopt_table('memos')").await;
    let rights = "select format('%s %s', has_table_privilege(r, 'memos', 'truncate'), has_table_privilege(r, 'memos', 'insert'))
                  from unnest(array['anon', 'authenticated', 'service_role']) r";
    assert_eq!(texts(&db, rights).await, ["f t", "f t", "f t"]);
}
