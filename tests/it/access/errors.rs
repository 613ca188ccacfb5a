//! The errors of isolation that PostgreSQL raises itself: the documentation explains each one.

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::migrated;
use crate::harness::TestDb;

const ORG_A: &str = "aaaaaaaa-0000-4000-8000-000000000000";
const ORG_B: &str = "bbbbbbbb-0000-4000-8000-000000000000";

/// A statement of a request of `ORG_A`, its SQLSTATE, and the documented part of its message.
const REJECTED: [(&str, &str, &str); 3] = [
    (
        "insert into notes (id, organization_id, org_id) values (3, '{B}', '{B}')",
        "42501",
        "new row violates row-level security policy \"warden_org\"",
    ),
    (
        "insert into notes (id, organization_id, org_id) values (3, '{B}', '{A}')",
        "23514",
        "violates check constraint \"warden_org_id_parent\"",
    ),
    (
        "insert into lines (id, note_id) values (1, 2)",
        "23503",
        "violates foreign key constraint \"lines_org_id_note_id_fkey\"",
    ),
];

#[tokio::test]
async fn the_documentation_explains_the_errors_of_isolation() {
    let db = TestDb::create_from("template0").await;
    migrated(&db, &[]).await;
    db.run(format!(
        "insert into organizations (id, name) values ('{ORG_A}', 'a'), ('{ORG_B}', 'b');
         create table notes (id int primary key, organization_id uuid not null references organizations);
         create table lines (id int primary key, note_id int not null references notes);
         grant select, insert on notes, lines to authenticated;
         insert into notes values (1, '{ORG_A}'), (2, '{ORG_B}')"
    ))
    .await;
    let tables = "public.notes parent=public.organizations parent_column=organization_id, \
                  public.lines parent=public.notes parent_column=note_id";
    migrated(&db, &["--tables", tables, "--enforce", "--yes"]).await;
    let mut request = PgConnection::connect(db.url()).await.expect("connects");
    let claims = format!(
        r#"set role authenticated;
           select set_config('request.jwt.claims', '{{"app_metadata": {{"org_id": "{ORG_A}"}}}}', false)"#
    );
    request.execute(sqlx::raw_sql(AssertSqlSafe(claims))).await.expect("sets the claims");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tenancy.md");
    let page = std::fs::read_to_string(path).expect("reads");
    for (sql, code, message) in REJECTED {
        let sql = sql.replace("{A}", ORG_A).replace("{B}", ORG_B);
        let error = request.execute(AssertSqlSafe(sql.clone())).await.expect_err("is rejected");
        let error = error.as_database_error().expect("of the database").downcast_ref::<PgDatabaseError>();
        assert_eq!(error.code(), code, "{sql}: {error}");
        assert!(error.message().contains(message), "{sql}: {error}");
        let documented = message.replace("lines_org_id_note_id_fkey", "<table>_org_id_<column>_fkey");
        let row = page.lines().find(|line| line.contains(&documented));
        assert!(row.is_some_and(|row| row.contains(code)), "{documented} is not documented");
    }
}
