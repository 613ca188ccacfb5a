//! The question about policies of the application whose conditions read tables that will be isolated.

use sqlx::postgres::PgConnection;

use crate::tenancy::AdoptionIssue;
use crate::tenancy::sql::literal;

/// A policy, and what its conditions read.
#[derive(sqlx::FromRow)]
struct PolicyCondition {
    object: String,
    reads: String,
}

/// The question about all policies whose conditions read one of these tables; none if there is no such
/// policy, or each one is accepted.
pub(in crate::tenancy) async fn question(
    connection: &mut PgConnection,
    tables: &[i64],
) -> Result<Option<AdoptionIssue>, sqlx::Error> {
    let conditions: Vec<PolicyCondition> = sqlx::query_as(
        "select c.* from warden.policy_conditions(array(select t::oid::regclass from unnest($1::bigint[]) t)) c
         where not exists (select from warden.decisions d
                           where d.rule = 'policy-condition' and d.object = c.object and d.choice = 'accept')",
    )
    .bind(tables)
    .fetch_all(connection)
    .await?;
    if conditions.is_empty() {
        return Ok(None);
    }
    let mut problem = String::from(
        "they read tables that will be isolated, and then see rows of the organisation only: EXISTS holds for fewer rows, \
         NOT EXISTS for more",
    );
    for PolicyCondition { object, reads } in &conditions {
        problem += &format!("\n      {object}: reads {reads}");
    }
    let objects: Vec<String> = conditions.iter().map(|c| literal(&c.object)).collect();
    let remedy = format!(
        "Do the rows that decide belong to the organisation of the row, or to the user of the claims? Then nothing changes:\n\
         select warden.accept_finding('policy-condition', p, '<why>') from unnest(array[{}]) p;\n\
         Otherwise let the condition call a SECURITY DEFINER function of a role with BYPASSRLS, which names these rows.",
        objects.join(", ")
    );
    Ok(Some(AdoptionIssue::new("conditions of policies", problem, remedy)))
}
