//! Calls the functions that decide whose rows a request sees, with claims that must give nothing.

use serde_json::{Value, json};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::report::{Finding, Mend};

/// Claims, and whether they name the organisation.
fn cases(org: Uuid) -> Vec<(&'static str, String, bool)> {
    let text = org.to_string();
    let within = |org: Value| json!({"app_metadata": {"org_id": org}}).to_string();
    vec![
        ("app_metadata.org_id", within(json!(text)), true),
        ("app_metadata.org_id in upper case", within(json!(text.to_uppercase())), true),
        ("no claims", String::new(), false),
        ("org_id in user_metadata alone", json!({"user_metadata": {"org_id": text}}).to_string(), false),
        ("org_id beside app_metadata", json!({"org_id": text, "app_metadata": {}}).to_string(), false),
        ("no uuid", within(json!("acme")), false),
        ("an empty text", within(json!("")), false),
        ("a number", within(json!(7)), false),
        ("null", within(Value::Null), false),
        ("a list", within(json!([text])), false),
        ("a uuid and more", within(json!(format!("{text}'"))), false),
        ("claims that are a list", json!([{"app_metadata": {"org_id": text}}]).to_string(), false),
        // Below PostgreSQL 16 an error, which lets nothing through either.
        ("no JSON", "{".to_owned(), false),
    ]
}

fn finding(rule: &'static str, object: &str, cause: String) -> Finding {
    let mend =
        Mend::decide("make it again as the migration 0005_organizations.sql does, and look who changed it");
    Finding::new(rule, None, object, cause, mend)
}

/// What `auth_org_id()` answers.
pub(super) async fn judge(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    const OBJECT: &str = "public.auth_org_id()";
    let is_there: bool = sqlx::query_scalar("select to_regprocedure($1) is not null")
        .bind(OBJECT)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(vec![finding("claims", OBJECT, "it is missing: no policy can be asked".to_owned())]);
    }
    let org = Uuid::new_v4();
    let mut found = Vec::new();
    for (what, claims, is_named) in cases(org) {
        let answer = ask(connection, &claims).await;
        let wanted = is_named.then_some(org);
        match answer {
            Ok(answer) if answer == wanted => {}
            Ok(answer) => {
                let answer = answer.map_or_else(|| "null".to_owned(), |org| org.to_string());
                let wanted = if is_named { "that" } else { "null" };
                found.push(finding(
                    "claims",
                    OBJECT,
                    format!("{what}: it answers {answer}, and must answer {wanted}"),
                ));
            }
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                return Err(sqlx::Error::Database(error));
            }
            Err(sqlx::Error::Database(_)) if what == "no JSON" => {}
            Err(sqlx::Error::Database(error)) => {
                found.push(finding("claims", OBJECT, format!("{what}: it fails: {}", error.message())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn ask(connection: &mut PgConnection, claims: &str) -> Result<Option<Uuid>, sqlx::Error> {
    connection.execute("savepoint warden_claims").await?;
    sqlx::query("select set_config('request.jwt.claims', $1, true)")
        .bind(claims)
        .execute(&mut *connection)
        .await?;
    let answer = sqlx::query_scalar("select public.auth_org_id()").fetch_one(&mut *connection).await;
    connection.execute(sqlx::raw_sql("rollback to warden_claims; release warden_claims")).await?;
    answer
}

/// What the token hook makes of claims: of a user who is no member anywhere, and of one who is.
pub(super) async fn judge_hook(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    const OBJECT: &str = "public.custom_access_token_hook(jsonb)";
    connection.execute("set local row_security = on").await?;
    // Its absence is the functions' affair.
    let is_there: bool = sqlx::query_scalar("select to_regprocedure($1) is not null")
        .bind(OBJECT)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(Vec::new());
    }
    let member: Option<(Uuid, Vec<Uuid>)> = sqlx::query_as(
        "select m.user_id, coalesce(array_agg(m.org_id) filter (where (to_jsonb(m) ->> 'is_primary')::boolean), array_agg(m.org_id))
         from public.organization_members m group by m.user_id order by m.user_id limit 1",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let stranger = Uuid::new_v4();
    let mut found = Vec::new();
    for (user, orgs) in [Some((stranger, Vec::new())), member].into_iter().flatten() {
        let claims = json!({"sub": user, "app_metadata": {"org_id": stranger, "provider": "email"}});
        let mut answer: Value = sqlx::query_scalar("select public.custom_access_token_hook($1)")
            .bind(json!({"user_id": user, "claims": claims}))
            .fetch_one(&mut *connection)
            .await?;
        let org = answer["claims"]["app_metadata"].as_object_mut().and_then(|claims| claims.remove("org_id"));
        let is_right = match org {
            Some(org) => orgs.iter().any(|one| org == json!(one)),
            None => orgs.is_empty(),
        };
        // Everything else stays.
        let rest = json!({"user_id": user, "claims": {"sub": user, "app_metadata": {"provider": "email"}}});
        if !is_right || answer != rest {
            let who = if user == stranger { "of a user without membership" } else { "of a member" };
            let cause = format!("it does not make the claims {who} what his membership says");
            found.push(finding("token-hook", OBJECT, cause));
        }
    }
    Ok(found)
}
