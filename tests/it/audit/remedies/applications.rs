//! Databases of applications, adopted by an owner that is no superuser. Each step is a remedy of the audit.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use warden::tenancy::audit::{Finding, Severity};
use warden_devkit::cluster::{Cluster, SUPERUSER};

use super::{apply, execute, inspect_in, shell, step};
use crate::harness::TestDb;

/// Two organisations, each with a member, a company of the member, and a note about the company. Only the
/// company names a user. Both names need quotes.
const CRM: &str = r#"
    create schema "Crm";
    create table "Crm"."Company" (id uuid primary key, user_id uuid not null);
    create table "Crm"."It's a ""Note""" (
      "Note Id" bigint generated always as identity primary key,
      "companyId" uuid not null references "Crm"."Company" on delete cascade, body text);
    insert into "Crm"."Company" values ('c0000000-0000-0000-0000-00000000000a', 'd0000000-0000-0000-0000-00000000000a'),
                                       ('c0000000-0000-0000-0000-00000000000b', 'd0000000-0000-0000-0000-00000000000b');
    insert into "Crm"."It's a ""Note""" ("companyId", body)
    select id, 'about ' || user_id from "Crm"."Company", generate_series(1, 3);"#;

const ORGANIZATIONS: &str = "
    insert into organizations (id, name) values ('b0000000-0000-0000-0000-00000000000a', 'a'),
                                                ('b0000000-0000-0000-0000-00000000000b', 'b');
    insert into organization_members (org_id, user_id) values
      ('b0000000-0000-0000-0000-00000000000a', 'd0000000-0000-0000-0000-00000000000a'),
      ('b0000000-0000-0000-0000-00000000000b', 'd0000000-0000-0000-0000-00000000000b')";

/// An owner as managed databases have it, and its database.
async fn owned_database(cluster: &Cluster) -> (PgConnection, String) {
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    execute(
        &mut admin,
        "create role app_owner login createrole bypassrls;
         grant warden_owner, anon, authenticated, service_role to app_owner with admin option",
    )
    .await;
    execute(&mut admin, "create database app owner app_owner").await;
    let url = cluster.url("app", "app_owner");
    (PgConnection::connect(&url).await.expect("connects"), url)
}

fn unregistered(found: &[Finding]) -> Vec<&Finding> {
    found.iter().filter(|finding| finding.rule == "unregistered-table").collect()
}

/// The audit's remedy names the parent that a foreign key names, so that no row gets another organisation.
#[tokio::test]
async fn a_table_without_a_user_inherits_from_the_parent_that_its_key_names() {
    let (cluster, template) = TestDb::create_alone().await;
    template.pool.close().await;
    let (mut connection, url) = owned_database(&cluster).await;
    execute(&mut connection, CRM).await;
    shell(&url, "warden migrate").await;
    execute(&mut connection, ORGANIZATIONS).await;
    // One table after the other: a child can be registered once its parent is.
    for _ in 0..2 {
        let found = inspect_in(&mut connection).await;
        let next = unregistered(&found)[0];
        apply(&mut connection, &url, &[step(next, 0).expect("a remedy")]).await;
    }
    let found = inspect_in(&mut connection).await;
    assert!(unregistered(&found).is_empty(), "{found:#?}");
    shell(&url, "warden migrate --enforce").await;
    let left = inspect_in(&mut connection).await;
    assert!(left.iter().all(|finding| finding.severity == Severity::Notice), "{left:#?}");
    let moved: i64 = sqlx::query_scalar(AssertSqlSafe(
        r#"select count(*) from "Crm"."It's a ""Note""" n join "Crm"."Company" c on c.id = n."companyId"
           where n.org_id <> c.org_id or right(n.org_id::text, 1) <> right(n.body, 1)"#
            .to_owned(),
    ))
    .fetch_one(&mut connection)
    .await
    .expect("counts");
    assert_eq!(moved, 0);
}
