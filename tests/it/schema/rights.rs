//! Rights: each role may do few things, and PUBLIC nothing.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::{count, texts};
use crate::harness::TestDb;

const ROLES: &str = "('warden_owner', 'warden_gateway', 'warden_publisher', 'warden_worker')";

/// Runs a statement as a role, in a transaction that is rolled back.
async fn as_role(db: &TestDb, role: &str, sql: &str) -> Result<(), String> {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    // A session of the role, as after a login: `reset role` in the statement must not help.
    connection
        .execute(AssertSqlSafe(format!("set session authorization {role}")))
        .await
        .expect("becomes the role");
    connection.execute("begin").await.expect("begins");
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.map(|_| ()).map_err(|error| error.to_string())
}

async fn assert_may(db: &TestDb, role: &str, statements: &[String]) {
    for sql in statements {
        as_role(db, role, sql).await.unwrap_or_else(|error| panic!("{role} must be able to {sql}: {error}"));
    }
}

async fn assert_may_not(db: &TestDb, role: &str, statements: &[String]) {
    for sql in statements {
        match as_role(db, role, sql).await {
            Ok(()) => panic!("{role} must not be able to {sql}"),
            Err(error) => assert!(
                error.contains("permission denied") || error.contains("must be owner"),
                "{role}: {sql}: rejected for another reason: {error}"
            ),
        }
    }
}

fn owned(statements: &[&str]) -> Vec<String> {
    statements.iter().map(|sql| (*sql).to_owned()).collect()
}

/// Statements that neither the gateway nor a publisher may run.
fn forbidden_to_both(org: Uuid) -> Vec<String> {
    let mut statements = owned(&[
        "select * from calls",
        "select id from call_logs",
        "select id from recordings",
        "select org_id from organization_members",
        "select name from organizations",
        "select * from organizations",
        "insert into organizations (name) values ('x')",
        "delete from organizations",
        "update warden.events set data = '{}'",
        "delete from warden.events",
        "truncate warden.events",
        "truncate warden.events_1",
        "insert into warden.topics values ('x')",
        "delete from warden.topics",
        "insert into warden.entity_topics values ('x', 'uuid')",
        "select * from warden.watches",
        "select * from warden.log_state",
        "update warden.log_state set epoch = null",
        "select removed_id from warden.last_rotation",
        "update warden.last_rotation set number = 0",
        "select truncated_xid from warden.log_floors",
        "delete from warden.log_floors",
        "select * from warden.closed_slots",
        "select * from warden.log_moves",
        "select * from warden.log_usage()",
        "select * from warden._sqlx_migrations",
        "select nextval('warden.events_slot')",
        "select setval('warden.events_slot', 1)",
        "select warden.declare_topic('x')",
        "select warden.declare_entity_topic('x', 'uuid')",
        "select warden.watch('calls', 'calls', 'call')",
        "select warden.unwatch('calls')",
        "insert into warden.revocations (user_id, revoked_at, expires_at) values ('a', now(), now())",
        "update warden.revocations set expires_at = now()",
        "delete from warden.revocations",
        "truncate warden.revocations",
        "select reason from warden.revocations",
        "select warden.add_revocation(null, 'a', null, '', '1 hour', null, null)",
        "drop trigger ring on warden.events",
        "alter table warden.events disable trigger all",
        "create table warden.x ()",
        "create function warden.x() returns int language sql as 'select 1'",
        "set role warden_owner",
    ]);
    statements.push(format!(
        "insert into warden.events (org_id, topic, event, data) values ('{org}', 'org', 'x', '{{}}')"
    ));
    statements.push(format!("insert into calls (org_id) values ('{org}')"));
    statements
}

/// Statements that only a back end may run.
fn revoking(org: Uuid) -> Vec<String> {
    let mut statements =
        owned(&["select warden.revoke(user_id => 'a', reason => 'stolen')", "select warden.unrevoke(1)"]);
    statements.push(format!("select warden.suspend('{org}')"));
    statements.push(format!("select warden.resume('{org}')"));
    statements
}

#[tokio::test]
async fn the_gateway_reads_the_log_and_no_tenant_table() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let may = owned(&[
        "select * from warden.events",
        "select name from warden.topics",
        "select kind, id_type from warden.entity_topics",
        "select id, session_id, user_id, org_id, issuer, revoked_at, suspended from warden.revocations",
        "select warden.forget_revocations()",
        "select warden.merge_revocations()",
        "select id, key from warden.load_cursor_keys()",
        "select warden.load_transaction_key()",
        // On behalf of a back end, within one organisation.
        "select id, revoked_at, expires_at
         from warden.revoke_within(gen_random_uuid(), requested_by => 'backend', user_id => 'a')",
        "select warden.publish_within((select id from organizations limit 1), '[{\"topic\": \"org\", \"event\": \"a\"}]')",
        "select warden.forget_idempotency_keys(1)",
        "select warden.epoch()",
        "select warden.begin_epoch()",
        "select warden.reading('calls', null, 1000)",
        "set local role authenticated",
        "select exists (select from organizations where id = gen_random_uuid())",
        "listen warden",
    ]);
    assert_may(&db, "warden_gateway", &may).await;
    assert_may_not(&db, "warden_gateway", &forbidden_to_both(org)).await;
    let publish = format!("select warden.publish('{org}', 'org', 'test.note')");
    assert_may_not(&db, "warden_gateway", &[publish, "set role warden_publisher".to_owned()]).await;
    assert_may_not(&db, "warden_gateway", &revoking(org)).await;
    // Only the function gives the keys of cursors.
    let keys = owned(&[
        "select key from warden.cursor_keys",
        "delete from warden.cursor_keys",
        "select key from warden.transaction_key",
        "update warden.transaction_key set key = default",
        "select warden.seal_transaction(gen_random_uuid(), '1')",
        "select warden.current_tx(gen_random_uuid())",
        "select warden.rotate_cursor_keys()",
        "select key from warden.idempotency_keys",
        "select * from warden.add_published(gen_random_uuid(), '[]')",
        "select warden.publish_once(gen_random_uuid(), 0, '[]', '{}', false)",
    ]);
    assert_may_not(&db, "warden_gateway", &keys).await;
}

#[tokio::test]
async fn a_publisher_publishes_and_reads_nothing() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let publish = format!("select warden.publish('{org}', 'org', 'test.note', '{{\"a\": 1}}')");
    let publish_all =
        format!("select * from warden.publish_all('{org}', '[{{\"topic\": \"org\", \"event\": \"a\"}}]')");
    let notify = format!(
        "select set_config('request.jwt.claims', '{{\"app_metadata\": {{\"org_id\": \"{org}\"}}}}', true), \
                warden.notify('org', 'text')"
    );
    let current_tx = format!("select warden.current_tx('{org}')");
    assert_may(&db, "warden_publisher", &[publish, publish_all, notify, current_tx]).await;
    assert_may(&db, "warden_publisher", &revoking(org)).await;
    assert_may_not(&db, "warden_publisher", &forbidden_to_both(org)).await;
    let may_not = owned(&[
        "select * from warden.events",
        "select id from warden.events_0",
        "select name from warden.topics",
        "select id from organizations",
        "select id from warden.revocations",
        "select warden.forget_revocations()",
        "select id, key from warden.load_cursor_keys()",
        "select key from warden.transaction_key",
        "select warden.load_transaction_key()",
        "select warden.seal_transaction(gen_random_uuid(), '1')",
        "select warden.revoke_within(gen_random_uuid(), 'backend', user_id => 'a')",
        "select warden.publish_within(gen_random_uuid(), '[]')",
        "select warden.epoch()",
        "select warden.begin_epoch()",
        "set role warden_gateway",
    ]);
    assert_may_not(&db, "warden_publisher", &may_not).await;
}

/// An application that writes to its own tables needs no right in schema warden.
#[tokio::test]
async fn a_writer_needs_no_right_on_the_log() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let role = format!("writer_{}", db.name);
    db.run(format!(
        "create role {role} login; grant select, insert, update, delete, truncate on recordings to {role};
         grant truncate on recording_upload_queue to {role};
         create policy writer on recordings to {role} using (true) with check (true)"
    ))
    .await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    connection.execute(AssertSqlSafe(format!("set session authorization {role}"))).await.expect("becomes");
    let claims = format!(r#"set request.jwt.claims = '{{"app_metadata": {{"org_id": "{org}"}}}}'"#);
    connection.execute(AssertSqlSafe(claims)).await.expect("sets");
    let before = count(&db, "select count(*) from warden.events").await;
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(format!(
            "insert into recordings (org_id) values ('{org}'); update recordings set channels = 2;
             delete from recordings; truncate recordings cascade"
        ))))
        .await
        .expect("writes");
    assert_eq!(count(&db, "select count(*) from warden.events").await, before + 4);
    assert_may_not(&db, &role, &forbidden_to_both(org)[11..]).await;
    assert_may_not(&db, &role, &revoking(org)).await;
    assert_may_not(
        &db,
        &role,
        &owned(&[
            "select warden.publish(null, null, null)",
            "select * from warden.publish_all(null, null)",
            "select warden.current_tx(null)",
            "select warden.notify('org')",
        ]),
    )
    .await;
}

#[tokio::test]
async fn public_has_no_right_in_schema_warden() {
    let db = TestDb::create().await;
    // Functions that later watches create are included.
    db.run(
        "create table notes (id bigint primary key, org_id uuid not null);
         select warden.watch('notes', 'notes', 'note');
         create table a_table_with_such_a_long_name_that_its_function_is_named_by_hash (id int primary key, org_id uuid);
         select warden.watch('a_table_with_such_a_long_name_that_its_function_is_named_by_hash', 'long', 'long')",
    )
    .await;
    let functions = "from pg_proc where pronamespace = 'warden'::regnamespace";
    assert!(count(&db, &format!("select count(*) {functions} and proname like 'log %'")).await >= 6);
    let open = format!(
        "select oid::regprocedure::text {functions} and has_function_privilege('public', oid, 'execute') order by 1"
    );
    // Policies call these two as any role.
    assert_eq!(texts(&db, &open).await, ["warden.auth_org_id()", "warden.auth_user_id()"]);
    let open = "select oid::regclass::text from pg_class where relnamespace = 'warden'::regnamespace
                and (relkind in ('r', 'p', 'v', 'm', 'f') and (
                       has_table_privilege('public', oid, 'select, insert, update, delete, truncate, references, trigger')
                       or has_any_column_privilege('public', oid, 'select, insert, update, references'))
                  or relkind = 'S' and has_sequence_privilege('public', oid, 'usage, select, update'))";
    assert_eq!(texts(&db, open).await, Vec::<String>::new());
    let open = "select count(*) from pg_namespace where nspname = 'warden' and (has_schema_privilege('public', oid, 'usage')
                or has_schema_privilege('public', oid, 'create'))";
    assert_eq!(count(&db, open).await, 0);
    // Every other right to execute a function was granted by name.
    let granted = "select distinct a.grantee::regrole::text || ' ' || p.proname
                   from pg_proc p, aclexplode(p.proacl) a
                   where p.pronamespace = 'warden'::regnamespace and a.grantee <> p.proowner
                     and p.proname not in ('auth_org_id', 'auth_user_id') order by 1";
    assert_eq!(
        texts(&db, granted).await,
        [
            "authenticated has_short_numbers",
            "authenticated json_is_convertible",
            "service_role resume",
            "service_role revoke",
            "service_role suspend",
            "service_role unrevoke",
            "warden_gateway begin_epoch",
            "warden_gateway epoch",
            "warden_gateway forget_idempotency_keys",
            "warden_gateway forget_revocations",
            "warden_gateway is_truncated",
            "warden_gateway is_truncated_for_any",
            "warden_gateway load_cursor_keys",
            "warden_gateway load_transaction_key",
            "warden_gateway merge_revocations",
            "warden_gateway publish_within",
            "warden_gateway reading",
            "warden_gateway reading_version",
            "warden_gateway revoke_within",
            "warden_gateway rotate_events",
            "warden_gateway truncated_since",
            "warden_gateway truncation_reason",
            "warden_gateway unfit_watches",
            "warden_publisher current_tx",
            "warden_publisher notify",
            "warden_publisher publish",
            "warden_publisher publish_all",
            "warden_publisher resume",
            "warden_publisher revoke",
            "warden_publisher suspend",
            "warden_publisher unrevoke",
            "warden_worker add_recording_wake",
            "warden_worker due_recording_organizations",
            "warden_worker recording_organizations",
            "warden_worker recording_schema",
            "warden_worker take_recording_wakes"
        ]
    );
}

#[tokio::test]
async fn definer_functions_have_a_fixed_search_path() {
    let db = TestDb::create().await;
    // A SECURITY DEFINER function without its own search_path would run objects of its caller with its
    // owner's rights. A function with its caller's rights needs none.
    let unsafe_functions = "select oid::regprocedure::text from pg_proc
                 where (prosecdef and pronamespace in ('warden'::regnamespace, 'public'::regnamespace)
                        or proname in ('auth_org_id', 'prevent_org_id_change'))
                   and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)";
    assert_eq!(texts(&db, unsafe_functions).await, Vec::<String>::new());
    let definers = "select pg_get_userbyid(proowner)::text || ' ' || proname from pg_proc
                    where prosecdef and pronamespace in ('warden'::regnamespace, 'public'::regnamespace) order by 1";
    let definers = texts(&db, definers).await;
    // The functions of event triggers change tables, so they need the rights of the migrating role.
    let of_event_triggers = ["protect_new_members", "refresh_watches_after_ddl", "resync_rewritten_table"];
    let is_expected =
        |d: &String| d.starts_with("warden_owner ") || of_event_triggers.iter().any(|name| d.ends_with(name));
    assert!(definers.len() >= 8 && definers.iter().all(is_expected), "{definers:?}");
}

/// A backslash in a plain literal means itself or begins an escape, as the caller's session decides.
#[tokio::test]
async fn functions_contain_no_literal_that_a_setting_of_the_caller_changes() {
    let db = TestDb::create().await;
    db.run(
        r#"create table odd (id int primary key, org_id uuid, "back\slash" text);
           select warden.watch('odd', 'odd', 'odd')"#,
    )
    .await;
    // Comments and quoted names may contain backslashes, and so may literals that begin with E.
    let ambiguous = r#"select oid::regprocedure::text from pg_proc
        where pronamespace in ('warden'::regnamespace, 'public'::regnamespace)
          and regexp_replace(regexp_replace(prosrc, '--[^\n]*', '', 'g'), 'E''([^'']|'''')*''|''[^''\\]*''|"[^"]*"', '', 'g') ~ '\\'
          and not coalesce('standard_conforming_strings=on' = any (proconfig), false)"#;
    assert_eq!(texts(&db, ambiguous).await, Vec::<String>::new());
}

#[tokio::test]
async fn wardens_roles_have_no_special_attributes_or_memberships() {
    let db = TestDb::create().await;
    let special = format!(
        "select rolname::text from pg_roles where rolname in {ROLES}
         and (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)"
    );
    assert_eq!(texts(&db, &special).await, Vec::<String>::new());
    assert_eq!(count(&db, &format!("select count(*) from pg_roles where rolname in {ROLES}")).await, 4);
    assert_eq!(
        count(&db, "select count(*) from pg_roles where rolname = 'warden_owner' and not rolcanlogin").await,
        1
    );
    // None inherits the rights of another role. The gateway's may become `authenticated` to read rows.
    let members = format!(
        "select concat_ws(' ', m.member::regrole, 'in', m.roleid::regrole,
                          coalesce(to_jsonb(m) ->> 'inherit_option', r.rolinherit::text))
         from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname in {ROLES} order by 1"
    );
    assert_eq!(texts(&db, &members).await, ["warden_gateway in authenticated false"]);
    // The owner of the definer functions can read only which organisations exist, and their memberships,
    // which it needs for the org_id of tokens.
    let seen =
        "select t || '.' || a.attname from (select format('%I.%I', schema_name, table_name) from warden.tenant_tables) r (t)
                join pg_attribute a on a.attrelid = t::regclass and a.attnum > 0
                where has_column_privilege('warden_owner', a.attrelid, a.attnum, 'select')
                   or has_column_privilege('warden_owner', a.attrelid, a.attnum, 'insert')
                   or has_column_privilege('warden_owner', a.attrelid, a.attnum, 'update') order by 1";
    assert_eq!(
        texts(&db, seen).await,
        [
            "public.organization_members.created_at",
            "public.organization_members.is_primary",
            "public.organization_members.org_id",
            "public.organization_members.user_id",
            "public.organizations.id"
        ]
    );
}
