//! Rules about the functions that select a request's organisation: they are called with valid and invalid
//! claims.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::remedy::Remedy;
use super::report::Finding;

/// Claims, and whether they contain the organisation in its one valid place.
fn cases(org: Uuid) -> Vec<(&'static str, String, bool)> {
    let text = org.to_string();
    let within = |org: Value| json!({"app_metadata": {"org_id": org}}).to_string();
    vec![
        ("app_metadata.org_id", within(json!(text)), true),
        ("app_metadata.org_id in upper case", within(json!(text.to_uppercase())), true),
        ("no claims", String::new(), false),
        ("org_id only in user_metadata", json!({"user_metadata": {"org_id": text}}).to_string(), false),
        ("org_id beside app_metadata", json!({"org_id": text, "app_metadata": {}}).to_string(), false),
        ("not a uuid", within(json!("acme")), false),
        ("an empty string", within(json!("")), false),
        ("a number", within(json!(7)), false),
        ("null", within(Value::Null), false),
        ("a list", within(json!([text])), false),
        ("a uuid with trailing characters", within(json!(format!("{text}'"))), false),
        ("claims that are a list", json!([{"app_metadata": {"org_id": text}}]).to_string(), false),
        // Below PostgreSQL 16 this is an error, which lets no row through either.
        (INVALID_JSON, "{".to_owned(), false),
    ]
}

const INVALID_JSON: &str = "invalid JSON";

fn finding(rule: &'static str, object: &str, cause: String, statements: &str) -> Finding {
    Finding::new(rule, None, object, cause, Remedy::sql(statements))
}

/// Statements that recreate the functions that read claims.
const CLAIM_FUNCTIONS: &str = "set role warden_owner;
select warden.create_claim_functions();
reset role;
select warden.create_public_function('auth_org_id'), warden.create_public_function('auth_user_id');";
/// Statements that recreate the token hook, and the function from which it takes the organisation.
const TOKEN_HOOK: &str = "set role warden_owner;
select warden.create_default_org_for();
reset role;
select warden.create_public_function('custom_access_token_hook');";

/// Checks the result of `auth_org_id()` for each case: of the function that policies call, and of the
/// original.
pub(super) async fn check(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let original = "warden.auth_org_id".to_owned();
    let callee = callee(connection, "auth_org_id").await?;
    let mut found = if callee == original { Vec::new() } else { check_function(connection, &callee).await? };
    found.append(&mut check_function(connection, &original).await?);
    Ok(found)
}

async fn check_function(connection: &mut PgConnection, function: &str) -> Result<Vec<Finding>, sqlx::Error> {
    let object = &format!("{function}()");
    if !exists(connection, object).await? {
        return Ok(vec![finding(
            "claims",
            object,
            "it is missing: no policy can call it".to_owned(),
            CLAIM_FUNCTIONS,
        )]);
    }
    let org = Uuid::new_v4();
    let mut found = Vec::new();
    for (case, claims, is_valid) in cases(org) {
        let result = call(connection, function, &claims).await;
        let expected = is_valid.then_some(org);
        match result {
            Ok(result) if result == expected => {}
            Ok(result) => {
                let result = result.map_or_else(|| "null".to_owned(), |org| org.to_string());
                let expected = if is_valid { "that organisation" } else { "null" };
                found.push(finding(
                    "claims",
                    object,
                    format!("{case}: it returns {result}, and must return {expected}"),
                    CLAIM_FUNCTIONS,
                ));
            }
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
                return Err(sqlx::Error::Database(error));
            }
            Err(sqlx::Error::Database(_)) if case == INVALID_JSON => {}
            Err(sqlx::Error::Database(error)) => {
                found.push(finding(
                    "claims",
                    object,
                    format!("{case}: it fails: {}", error.message()),
                    CLAIM_FUNCTIONS,
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn exists(connection: &mut PgConnection, function: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regprocedure($1) is not null").bind(function).fetch_one(connection).await
}

/// The function that policies call: the one in schema `public`, unless the application has one of that name.
async fn callee(connection: &mut PgConnection, name: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select warden.callee($1)").bind(name).fetch_one(connection).await
}

async fn call(
    connection: &mut PgConnection,
    function: &str,
    claims: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    connection.execute("savepoint warden_claims").await?;
    sqlx::query("select set_config('request.jwt.claims', $1, true)")
        .bind(claims)
        .execute(&mut *connection)
        .await?;
    let result =
        sqlx::query_scalar(AssertSqlSafe(format!("select {function}()"))).fetch_one(&mut *connection).await;
    connection.execute(sqlx::raw_sql("rollback to warden_claims; release warden_claims")).await?;
    result
}

/// Checks the claims that the token hook returns, for a user without a membership and for a member.
pub(super) async fn check_hook(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let function = callee(connection, "custom_access_token_hook").await?;
    let object = &format!("{function}(jsonb)");
    connection.execute("set local row_security = on").await?;
    // The rule about functions reports a missing hook. A hook of the application may change any claim, and
    // may write.
    let is_whole: bool = sqlx::query_scalar("select warden.application_token_hook() is null")
        .fetch_one(&mut *connection)
        .await?;
    if !is_whole || !exists(connection, object).await? {
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
        let mut result: Value = sqlx::query_scalar(AssertSqlSafe(format!("select {function}($1)")))
            .bind(json!({"user_id": user, "claims": claims}))
            .fetch_one(&mut *connection)
            .await?;
        let org = result["claims"]["app_metadata"].as_object_mut().and_then(|claims| claims.remove("org_id"));
        let is_right = match org {
            Some(org) => orgs.iter().any(|one| org == json!(one)),
            None => orgs.is_empty(),
        };
        // Every other claim must be unchanged.
        let rest = json!({"user_id": user, "claims": {"sub": user, "app_metadata": {"provider": "email"}}});
        if !is_right || result != rest {
            let subject = if user == stranger { "a user without a membership" } else { "a member" };
            let cause = format!("the claims that it returns for {subject} do not follow the memberships");
            found.push(finding("token-hook", object, cause, TOKEN_HOOK));
        }
    }
    Ok(found)
}
