//! Roles that lack rights: each command names the role, what it lacks, and the statement that grants it.

use sqlx::{Connection as _, PgConnection};
use warden::log::{LogReader, PageLimits};
use warden::postgres::Primary;

use super::run;
use crate::harness::TestDb;

/// Commands that change or audit the schema, and their exit code if the role may not use it.
const COMMANDS: [(&[&str], i32); 6] = [
    (&["migrate", "--plan"], 1),
    (&["migrate"], 1),
    (&["migrate", "--tables", "calls"], 1),
    (&["migrate", "--enforce", "--yes"], 1),
    (&["migrate", "--relax", "--yes"], 1),
    (&["audit"], 2),
];

/// Asserts that every command fails with all of these texts.
async fn all_fail(url: &str, expected: &[&str]) {
    for (args, code) in COMMANDS {
        let outcome = run(args, &[("DATABASE_URL", url)]).await;
        let text = format!("{}{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.code, Some(code), "{args:?}: {text}");
        for part in expected {
            assert!(text.contains(part), "{args:?} lacks {part:?}: {text}");
        }
        assert!(!text.contains("permission denied"), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn commands_name_the_role_that_may_not_use_the_schema() {
    let (cluster, db) = TestDb::create_alone().await;
    db.run("create role \"app-deploy\" login; create role dormant login noinherit; grant warden_owner to dormant")
        .await;
    let url = cluster.url(&db.name, "app-deploy");
    let stranger =
        ["role \"app-deploy\"", "may not use schema warden, because it is not a member of warden_owner"];
    all_fail(
        &url,
        &[&stranger[..], &["Use the role postgres", "grant warden_owner to \"app-deploy\";"]].concat(),
    )
    .await;
    all_fail(
        &cluster.url(&db.name, "dormant"),
        &["role dormant", "is a member of warden_owner and does not inherit its rights", "As a superuser: "],
    )
    .await;
    // A role that may use the schema, but not its tables: the audit checks some rules. For each other rule,
    // the finding names the role.
    db.run("create role \"app-monitor\" login; grant usage on schema warden to \"app-monitor\"").await;
    let monitor = cluster.url(&db.name, "app-monitor");
    let reason = "may not read the tables of schema warden, because it is not a member of warden_owner";
    let outcome = run(&["migrate", "--plan"], &[("DATABASE_URL", &monitor)]).await;
    assert!(outcome.code == Some(1) && outcome.stdout.contains(reason), "{outcome:?}");
    let outcome = run(&["audit"], &[("DATABASE_URL", &monitor)]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for part in [
        &format!("could not be checked: role \"app-monitor\" {reason}: permission denied for "),
        "Use the role postgres, which installed Warden. As a superuser: grant warden_owner to \"app-monitor\";",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    // The role that installed Warden is no superuser, so it may be granted.
    db.run("create role installer; alter table warden._sqlx_migrations owner to installer").await;
    all_fail(
        &url,
        &[&stranger[..], &["Use the role installer", "grant installer to \"app-deploy\";"]].concat(),
    )
    .await;
    // The remedies are right: what is missing then has names and remedies of its own.
    db.run("grant warden_owner to \"app-deploy\"").await;
    let outcome = run(&["migrate", "--plan"], &[("DATABASE_URL", &url)]).await;
    for part in [
        "table warden._platform_migrations: is in schema warden, and belongs to postgres",
        "Use the role postgres, or as a superuser: alter table public.organizations owner to \"app-deploy\";",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    assert!(!outcome.stdout.contains("grant postgres"), "nobody becomes a superuser: {outcome:?}");
    cluster.close().await.expect("ends");
}

/// Connects as the gateway does.
async fn follow(url: &str) -> Result<(), String> {
    let primary = Primary::new(warden::postgres::options(url).expect("a URL"));
    let page = PageLimits { rows_max: 1, bytes_max: 1 };
    LogReader::connect(&primary, page).await.map(|_| ()).map_err(|error| error.to_string())
}

/// Every right that the migrations grant to the gateway's role and not to PUBLIC, as a statement that revokes
/// it. Retention reports itself that its right is missing.
const GRANTED: &str = "
    select format('revoke %s on %s from warden_gateway', lower(a.privilege_type), g.object)
    from (
      select nspacl, 'schema warden' from pg_namespace where nspname = 'warden'
      union all
      select relacl, c.oid::regclass::text from pg_class c where relnamespace in ('warden'::regnamespace, 'public'::regnamespace)
      union all
      select proacl, 'function ' || p.oid::regprocedure from pg_proc p where pronamespace = 'warden'::regnamespace
        and proname <> 'rotate_events'
    ) g (acl, object), aclexplode(g.acl) a
    where a.grantee = 'warden_gateway'::regrole
      and not exists (select from aclexplode(g.acl) p where p.grantee = 0 and p.privilege_type = a.privilege_type)
    union all
    select format('revoke %s (%I) on %s from warden_gateway', lower(a.privilege_type), t.attname, t.attrelid::regclass)
    from pg_attribute t, aclexplode(t.attacl) a
    where a.grantee = 'warden_gateway'::regrole
    order by 1";

#[tokio::test]
async fn the_gateway_names_each_right_that_its_role_lacks() {
    let db = TestDb::create().await;
    let mut admin = PgConnection::connect(db.url()).await.expect("connects");
    let revokes: Vec<String> = sqlx::query_scalar(GRANTED).fetch_all(&mut admin).await.expect("is read");
    assert!(revokes.len() > 30, "{revokes:#?}");
    follow(db.gateway_url()).await.expect("has all rights");
    for revoke in &revokes {
        db.run(revoke.as_str()).await;
        let error = follow(db.gateway_url()).await.expect_err(revoke);
        let what = "role warden_gateway lacks rights that the gateway needs: ";
        assert!(error.starts_with(what), "{revoke}: {error}");
        let (_, remedy) = error.split_once("As a superuser: ").expect("has a remedy");
        db.run(remedy).await;
        follow(db.gateway_url()).await.unwrap_or_else(|error| panic!("{remedy}: {error}"));
    }
    // Several rights at once.
    for revoke in revokes.iter().filter(|revoke| revoke.contains("function")) {
        db.run(revoke.as_str()).await;
    }
    let error = follow(db.gateway_url()).await.expect_err("lacks rights");
    assert!(error.contains(" more. As a superuser: grant execute on function warden."), "{error}");
    db.run(error.split_once("As a superuser: ").expect("has a remedy").1).await;
    follow(db.gateway_url()).await.expect("has all rights");
}

#[tokio::test]
async fn the_gateway_names_a_login_role_that_is_not_a_member_of_its_role() {
    let (cluster, db) = TestDb::create_alone().await;
    db.run("create role \"app-realtime\" login").await;
    let url = cluster.url(&db.name, "app-realtime");
    let error = follow(&url).await.expect_err("has no rights");
    for part in [
        "role \"app-realtime\" lacks rights that the gateway needs: usage on schema warden",
        "As a superuser: grant warden_gateway to \"app-realtime\";",
    ] {
        assert!(error.contains(part), "{error}");
    }
    db.run("grant warden_gateway to \"app-realtime\"").await;
    follow(&url).await.expect("has all rights");
    cluster.close().await.expect("ends");
}
