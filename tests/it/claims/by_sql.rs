//! The run by SQL: the same decisions on `auth.users`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{DEFAULT_ORG, join, summary, tempfile};
use crate::cli::run;
use crate::harness::TestDb;

#[tokio::test]
async fn auth_users_get_the_same_decisions_and_keep_other_keys() {
    let db = TestDb::create().await;
    db.run(
        "create schema auth;
         create table auth.users (id uuid primary key, raw_app_meta_data jsonb, created_at timestamptz,
           updated_at timestamptz, banned_until timestamptz, deleted_at timestamptz, is_anonymous bool);
         insert into auth.users (id, raw_app_meta_data, created_at, is_anonymous)
           select gen_random_uuid(), jsonb_build_object('plan', n), now(), false from generate_series(1, 40) n",
    )
    .await;
    let ids: Vec<Uuid> = sqlx::query_scalar("select id from auth.users order by id")
        .fetch_all(&db.pool)
        .await
        .expect("queries");
    let org = db.create_org().await;
    join(&db, ids[0], org, false, "1 day").await;
    join(&db, ids[1], org, false, "1 day").await;
    db.run(format!(
        "update auth.users set raw_app_meta_data = '{{\"org_id\": \"{DEFAULT_ORG}\"}}' where id = '{}';
         update auth.users set banned_until = now() + interval '1 hour' where id = '{}';
         update auth.users set is_anonymous = true where id = '{}';
         update auth.users set deleted_at = now() where id = '{}';
         update auth.users set raw_app_meta_data = null where id = '{}'",
        ids[1], ids[2], ids[3], ids[4], ids[5]
    ))
    .await;
    let variables = [("DATABASE_URL", db.url())];
    let args = ["claims", "sync", "--by", "sql", "--json", "--page-size", "7"];
    let with = async |more: &[&str], code| summary(&run(&[&args[..], more].concat(), &variables).await, code);
    assert_eq!(with(&["--verify"], 1).await["differences"], 37);
    let done = with(&[], 0).await;
    assert_eq!(
        (&done["users"], &done["updated"], &done["memberships"]),
        (&json!(40), &json!(36), &json!(35))
    );
    let rows: Vec<(Uuid, Option<Value>)> =
        sqlx::query_as("select id, raw_app_meta_data from auth.users order by id")
            .fetch_all(&db.pool)
            .await
            .expect("queries");
    assert_eq!(rows[0].1.as_ref().expect("set")["org_id"], json!(org));
    assert_eq!(rows[1].1, Some(json!({"org_id": DEFAULT_ORG})), "is not overwritten without --reassign");
    for (_, metadata) in &rows[2..5] {
        assert!(metadata.as_ref().expect("set").get("org_id").is_none(), "{metadata:?}");
    }
    assert_eq!(rows[5].1, Some(json!({"org_id": DEFAULT_ORG})));
    for (_, metadata) in &rows[6..] {
        let metadata = metadata.as_ref().expect("set");
        assert!(metadata["plan"].is_i64() && metadata["org_id"] == DEFAULT_ORG, "{metadata}");
    }
    let state = tempfile(&db);
    let done = with(&["--reassign", "--revoke", "--state-file", &state], 0).await;
    assert_eq!((&done["updated"], &done["revoked"]), (&json!(1), &json!(1)), "{done}");
    with(&["--verify"], 0).await;
}
