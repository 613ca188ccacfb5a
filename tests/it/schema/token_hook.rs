//! `public.custom_access_token_hook`, which Supabase Auth calls before it issues a token.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;
use warden_devkit::cluster::SUPERUSER;

use crate::harness::{TestDb, shared_cluster_url};

async fn hook(db: &TestDb, event: &Value) -> Value {
    sqlx::query_scalar("select public.custom_access_token_hook($1)")
        .bind(event)
        .fetch_one(&db.pool)
        .await
        .unwrap_or_else(|e| panic!("{event}: {e}"))
}

/// An event in the form of Supabase Auth.
fn event(user: Uuid, app_metadata: &Value) -> Value {
    json!({"user_id": user, "authentication_method": "token_refresh", "claims": {
        "aud": "authenticated", "exp": 1_715_690_221, "iat": 1_715_686_621, "sub": user, "email": "a@example.com",
        "phone": "", "role": "authenticated", "aal": "aal1", "session_id": "s", "is_anonymous": false,
        "amr": [{"method": "password", "timestamp": 1_715_686_621}],
        "app_metadata": app_metadata, "user_metadata": {"org_id": "mine to write"}
    }})
}

#[tokio::test]
async fn the_claim_follows_the_present_membership() {
    let db = TestDb::create().await;
    let (old, new, user) = (db.create_org().await, db.create_org().await, Uuid::new_v4());
    let given = |org: Uuid| event(user, &json!({"provider": "email", "providers": ["email"], "org_id": org}));
    let none = event(user, &json!({"provider": "email", "providers": ["email"]}));
    // Without a membership the claim is removed, whatever it was. This ends the access of a removed member.
    for stale in [&none, &given(old)] {
        assert_eq!(hook(&db, stale).await, none);
    }
    db.run(format!(
        "insert into organization_members (org_id, user_id, created_at) values ('{old}', '{user}', now() - interval '1 day'), ('{new}', '{user}', now())"
    ))
    .await;
    // The oldest membership counts, whatever the claim was before. Nothing but the claim changes.
    for stale in [&none, &given(new), &given(Uuid::nil())] {
        assert_eq!(hook(&db, stale).await, given(old));
    }
    db.run(format!("update organization_members set is_primary = true where org_id = '{new}'")).await;
    assert_eq!(hook(&db, &none).await, given(new));
    db.run(format!("delete from organization_members where org_id = '{new}'")).await;
    assert_eq!(hook(&db, &given(new)).await, given(old));
    db.run(format!("delete from organizations where id = '{old}'")).await;
    assert_eq!(hook(&db, &given(old)).await, none);
}

/// A hook that fails keeps users from signing in.
#[tokio::test]
async fn malformed_events_are_answered_without_an_error() {
    let db = TestDb::create().await;
    for (asked, answer) in [
        (
            json!({"user_id": "nobody", "claims": {}}),
            json!({"user_id": "nobody", "claims": {"app_metadata": {}}}),
        ),
        (
            json!({"user_id": 7, "claims": {"app_metadata": null}}),
            json!({"user_id": 7, "claims": {"app_metadata": {}}}),
        ),
        (
            json!({"claims": {"app_metadata": ["org_id"], "sub": "s"}}),
            json!({"claims": {"app_metadata": {}, "sub": "s"}}),
        ),
        (json!({"claims": {"app_metadata": "org_id"}}), json!({"claims": {"app_metadata": {}}})),
    ] {
        assert_eq!(hook(&db, &asked).await, answer);
    }
    for untouched in
        [json!({}), json!({"claims": "none"}), json!({"claims": []}), json!([]), json!(7), json!(null)]
    {
        assert_eq!(hook(&db, &untouched).await, untouched);
    }
}

/// Otherwise a request could find out another user's organisation.
#[tokio::test]
async fn request_roles_may_not_call_the_hook() {
    let db = TestDb::create().await;
    for role in ["anon", "authenticated", "service_role"] {
        for call in ["public.custom_access_token_hook('{}')", "warden.default_org_for(gen_random_uuid())"] {
            let error = db.error(format!("set local role {role}; select {call}")).await;
            assert!(error.contains("permission denied"), "{role}: {error}");
        }
    }
}

/// Supabase calls the hook as this role, which gets the necessary rights and no more.
#[tokio::test]
async fn supabase_auth_admin_may_call_the_hook_and_nothing_else() {
    let db = TestDb::create().await;
    let name = format!("hook_{}", db.name);
    let mut admin = sqlx::postgres::PgConnection::connect(db.url()).await.expect("connects");
    // Roles belong to the cluster. Only this test creates the role, and does not drop it, because databases
    // of other tests may have granted it rights meanwhile.
    admin.execute("create role supabase_auth_admin nologin").await.expect("creates");
    admin
        .execute(AssertSqlSafe(format!("create database {name} template template0")))
        .await
        .expect("creates");
    let url = shared_cluster_url(&name, SUPERUSER);
    warden::postgres::migrate_platform(&url).await.expect("migrates");
    let mut auth = sqlx::postgres::PgConnection::connect(&url).await.expect("connects");
    let user = Uuid::new_v4();
    let setup = format!(
        "insert into organization_members (org_id, user_id) values ('a0000000-0000-0000-0000-000000000001', '{user}');
         set session authorization supabase_auth_admin"
    );
    auth.execute(sqlx::raw_sql(AssertSqlSafe(setup))).await.expect("sets up");
    let answer: Value = sqlx::query_scalar("select public.custom_access_token_hook($1)")
        .bind(event(user, &json!({})))
        .fetch_one(&mut auth)
        .await
        .expect("may call it");
    assert_eq!(answer["claims"]["app_metadata"]["org_id"], "a0000000-0000-0000-0000-000000000001");
    for forbidden in ["select * from organization_members", "select * from calls", "select warden.epoch()"] {
        let error = auth.execute(forbidden).await.expect_err("may not").to_string();
        assert!(error.contains("permission denied"), "{forbidden}: {error}");
    }
}
