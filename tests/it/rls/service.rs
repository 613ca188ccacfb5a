//! Back-end roles: bound to an organisation, they reach only its rows. Every role of requests can read its
//! organisation from the claims.

use sqlx::{AssertSqlSafe, Executor as _};

use super::actors::{Actor, Reach, claims_of};
use super::{SERVICE, Suite};

/// A service role without BYPASSRLS, with the claims of one organisation.
#[tokio::test]
async fn a_bound_service_reaches_only_its_organisation() {
    let mut suite = Suite::start().await;
    let claims = claims_of(suite.tenants.own).to_string();
    let actor = |name: &str, claims, reach| Actor { name: name.into(), role: SERVICE.into(), claims, reach };
    let bound = actor("a bound service", claims, Reach::Own);
    let unbound = actor("an unbound service", String::new(), Reach::Nothing);
    assert_eq!(suite.failures(false, &[bound, unbound]).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_request_role_reads_its_organisation_and_user_from_the_claims() {
    let mut suite = Suite::start().await;
    let own = suite.tenants.own;
    for role in ["anon", "authenticated", "service_role", SERVICE] {
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

/// `anon` has no privilege at all. `authenticated` only reads the tables that decide about access and money.
#[tokio::test]
async fn request_roles_have_exactly_the_documented_privileges() {
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
        ["authenticated DELETE INSERT UPDATE: 32", "service_role DELETE INSERT SELECT UPDATE: 47"]
    );
    let secrets = "select count(*) from information_schema.role_table_grants where table_name in
                     ('organization_members', 'organizations', 'user_credits', 'credit_transactions', 'payments')
                     and grantee = 'authenticated' and privilege_type <> 'SELECT'";
    let writable: i64 = sqlx::query_scalar(secrets).fetch_one(&db.pool).await.expect("counts");
    assert_eq!(writable, 0);
}
