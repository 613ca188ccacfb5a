//! Back ends: bound to an organisation they reach its rows alone, and every role of requests can ask
//! which organisation that is.

use sqlx::{AssertSqlSafe, Executor as _};

use super::Suite;
use super::actors::{Actor, Reach, claims_of};

/// A service without the right to pass over row-level security, with the claims of one organisation.
#[tokio::test]
async fn a_service_that_is_bound_to_an_organisation_stays_in_it() {
    let mut suite = Suite::start().await;
    let role = suite.owner.replace("owner_", "service_");
    let claims = claims_of(suite.tenants.own).to_string();
    let bound = Actor { name: "a bound service".into(), role: role.clone(), claims, reach: Reach::Own };
    let unbound =
        Actor { name: "an unbound service".into(), role, claims: String::new(), reach: Reach::Nothing };
    assert_eq!(suite.failures(false, &[bound, unbound]).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_role_of_requests_knows_its_organisation_and_user() {
    let mut suite = Suite::start().await;
    let own = suite.tenants.own;
    let service = suite.owner.replace("owner_", "service_");
    for role in ["anon", "authenticated", "service_role", &service] {
        let request =
            format!("begin; set local role {role}; set local request.jwt.claims = '{}'", claims_of(own));
        suite.connection.execute(sqlx::raw_sql(AssertSqlSafe(request))).await.expect("begins");
        let known: (Option<uuid::Uuid>, Option<uuid::Uuid>) =
            sqlx::query_as("select public.auth_org_id(), public.auth_user_id()")
                .fetch_one(&mut suite.connection)
                .await
                .expect("may call them");
        assert_eq!(known, (Some(own.org), Some(own.user)), "{role}");
        suite.connection.execute("rollback").await.expect("rolls back");
    }
}

/// Without a token there is no right at all; with one, what decides about access and money is only read.
#[tokio::test]
async fn rights_on_the_platforms_tables_are_those_of_requests() {
    let db = crate::harness::TestDb::create().await;
    let rights: Vec<String> = sqlx::query_scalar(
        "select format('%s %s: %s', g.grantee, string_agg(distinct g.privilege_type, ' ' order by g.privilege_type), count(distinct g.table_name))
         from information_schema.role_table_grants g
         join warden.tenant_tables t on t.schema_name = g.table_schema and t.table_name = g.table_name
         where g.grantee in ('anon', 'authenticated', 'service_role', 'PUBLIC')
           and not (g.grantee = 'authenticated' and g.privilege_type = 'SELECT')
         group by g.grantee order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert_eq!(
        rights,
        ["authenticated DELETE INSERT UPDATE: 33", "service_role DELETE INSERT SELECT UPDATE: 47"]
    );
    let secrets = "select count(*) from information_schema.role_table_grants where table_name in
                     ('organization_members', 'organizations', 'user_credits', 'credit_transactions', 'payments')
                     and grantee = 'authenticated' and privilege_type <> 'SELECT'";
    let writable: i64 = sqlx::query_scalar(secrets).fetch_one(&db.pool).await.expect("counts");
    assert_eq!(writable, 0);
}
