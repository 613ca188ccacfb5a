//! `public.auth_org_id()`: the organisation of a request, or null.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use uuid::Uuid;

use crate::harness::TestDb;

const ORG: Uuid = uuid::uuid!("6f9619ff-8b86-4d01-b42d-00cf4fc964ff");
/// First version of PostgreSQL with a function that tests whether a string is JSON.
const VERSION_WITH_INPUT_IS_VALID: i32 = 160_000;

async fn connect(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

async fn set_claims(connection: &mut PgConnection, claims: &str) {
    sqlx::query("select set_config('request.jwt.claims', $1, false)")
        .bind(claims)
        .execute(connection)
        .await
        .expect("sets");
}

async fn auth_org_id(connection: &mut PgConnection) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select public.auth_org_id()").fetch_one(connection).await
}

fn malformed() -> Vec<Value> {
    let text = ORG.to_string();
    let with = |org_id: Value| json!({"sub": text, "org_id": text, "app_metadata": {"org_id": org_id}});
    let org_ids = [
        Value::Null,
        json!(""),
        json!("null"),
        json!(7),
        json!(true),
        json!([text]),
        json!({"org_id": text}),
        json!("not a uuid"),
        json!(ORG.simple().to_string()),
        json!(ORG.braced().to_string()),
        json!(ORG.urn().to_string()),
        json!(format!(" {text}")),
        json!(format!("{text} ")),
        json!(format!("{text}\n")),
        json!(format!("\n{text}")),
        json!(format!("{text}\n{text}")),
        json!(text[1..]),
        json!(format!("{text}0")),
        json!(text.replace('-', "_")),
        json!(text.replace('f', "g")),
        json!("6f9619ff8-b86-4d01-b42d-00cf4fc964ff"),
    ];
    let mut claims: Vec<Value> = org_ids.into_iter().map(with).collect();
    claims.extend([
        json!({}),
        json!({"org_id": text}),
        json!({"user_metadata": {"org_id": text}}),
        json!({"user_metadata": {"app_metadata": {"org_id": text}}}),
        json!({"app_metadata": {}, "user_metadata": {"org_id": text}}),
        json!({"app_metadata": {"Org_id": text}}),
        json!({"app_metadata": {"org": {"org_id": text}}}),
        json!({"app_metadata": text}),
        json!({"app_metadata": format!("{{\"org_id\": \"{text}\"}}")}),
        json!({"app_metadata": [{"org_id": text}]}),
        json!({"app_metadata": [text]}),
        json!({"app_metadata": null}),
        json!([{"app_metadata": {"org_id": text}}]),
        json!([]),
        json!("text"),
        json!(text),
        json!(7),
        json!(true),
        json!(null),
    ]);
    claims
}

#[tokio::test]
async fn claims_without_a_uuid_string_in_app_metadata_give_null() {
    let db = TestDb::create().await;
    let mut connection = connect(&db).await;
    assert_eq!(auth_org_id(&mut connection).await.expect("no claims"), None);
    set_claims(&mut connection, "").await;
    assert_eq!(auth_org_id(&mut connection).await.expect("empty claims"), None);
    for claims in malformed() {
        set_claims(&mut connection, &claims.to_string()).await;
        assert_eq!(auth_org_id(&mut connection).await.expect("no error"), None, "{claims}");
    }
}

#[tokio::test]
async fn a_uuid_string_in_app_metadata_is_the_organisation() {
    let db = TestDb::create().await;
    let mut connection = connect(&db).await;
    for text in [ORG.to_string(), ORG.to_string().to_uppercase()] {
        for claims in [
            json!({"app_metadata": {"org_id": text}}),
            json!({"app_metadata": {"org_id": text, "provider": "email"}, "user_metadata": {"org_id": Uuid::nil()},
                "org_id": Uuid::nil()}),
        ] {
            set_claims(&mut connection, &claims.to_string()).await;
            assert_eq!(auth_org_id(&mut connection).await.expect("no error"), Some(ORG), "{claims}");
        }
    }
    // In production, claims are set for one transaction, and end with it.
    set_claims(&mut connection, "").await;
    let claims = json!({"app_metadata": {"org_id": ORG}});
    connection.execute("begin").await.expect("begins");
    connection
        .execute(AssertSqlSafe(format!("set local \"request.jwt.claims\" = '{claims}'")))
        .await
        .expect("sets");
    assert_eq!(auth_org_id(&mut connection).await.expect("no error"), Some(ORG));
    connection.execute("commit").await.expect("commits");
    assert_eq!(auth_org_id(&mut connection).await.expect("no error"), None);
}

#[tokio::test]
async fn invalid_json_gives_null_or_an_error() {
    let db = TestDb::create().await;
    let mut connection = connect(&db).await;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&mut connection)
        .await
        .expect("a version");
    for claims in [
        "{",
        "{'app_metadata': 1}",
        " ",
        "undefined",
        "\u{feff}{}",
        r#"{"app_metadata": {"org_id": "\u0000"}}"#,
    ] {
        set_claims(&mut connection, claims).await;
        match auth_org_id(&mut connection).await {
            Ok(org) => assert!(org.is_none() && version >= VERSION_WITH_INPUT_IS_VALID, "{claims}: {org:?}"),
            Err(error) => assert!(version < VERSION_WITH_INPUT_IS_VALID, "{claims}: {error}"),
        }
    }
}

/// Workers of a parallel plan evaluate the function, where an EXCEPTION block would fail.
#[tokio::test]
async fn auth_org_id_works_in_parallel_workers() {
    const ROWS: i64 = 100_000;
    const ROWS_OF_ORG: i64 = ROWS / 4;
    let db = TestDb::create().await;
    db.run(format!(
        "create table many (org_id uuid);
         insert into many select case when n % 4 = 0 then '{ORG}'::uuid else gen_random_uuid() end
           from generate_series(1, {ROWS}) n;
         analyze many"
    ))
    .await;
    let mut connection = connect(&db).await;
    connection
        .execute(sqlx::raw_sql(
            "set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
             set max_parallel_workers_per_gather = 2; set parallel_leader_participation = off",
        ))
        .await
        .expect("sets");
    let query = "select count(*) from many where org_id = public.auth_org_id()";
    for (claims, expected) in [
        (json!({"app_metadata": {"org_id": ORG}}), ROWS_OF_ORG),
        (json!({"app_metadata": {"org_id": "not a uuid"}}), 0),
        (json!({"app_metadata": {"org_id": null}}), 0),
        (json!([]), 0),
    ] {
        set_claims(&mut connection, &claims.to_string()).await;
        let found: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("counts");
        assert_eq!(found, expected, "{claims}");
    }
    let plan: Vec<String> =
        sqlx::query(AssertSqlSafe(format!("explain (analyze, costs off, timing off) {query}")))
            .fetch_all(&mut connection)
            .await
            .expect("explains")
            .iter()
            .map(|row| row.get(0))
            .collect();
    let at = |what: &str| {
        plan.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in {plan:#?}"))
    };
    // The leader takes no part, so everything below the Gather ran in the workers.
    let launched = plan[at("Workers Launched:")].rsplit(' ').next().expect("a number").to_owned();
    assert!(launched.parse::<u32>().expect("a number") >= 1, "{plan:#?}");
    assert!(at("Gather") < at("Parallel Seq Scan on many"), "{plan:#?}");
    assert!(at("Parallel Seq Scan on many") < at("auth_org_id()"), "{plan:#?}");
}
