//! Applications link rows to a parent later, or to another parent. While the tables are adopted, a row
//! follows its parent to another organisation, and its children follow it.

use sqlx::{AssertSqlSafe, Executor as _};

use super::{RUN_DEADLINE, Run, ended, small_db, warden};
use crate::harness::TestDb;

/// Contacts get a company later. Notes are of a contact, and files of one of the organisations.
const APPLICATION: &str = "
    create table companies (id int primary key, organization_id uuid);
    create table contacts (id int primary key, company_id int references companies on delete set null, body text);
    create table notes (id int primary key, contact_id int not null references contacts on delete cascade);
    create table files (id int primary key, team uuid);
    insert into companies values (1, '0a000000-0000-4000-8000-00000000000a'), (2, '0b000000-0000-4000-8000-00000000000b');
    insert into contacts values (1, 1), (2, 2), (3, null);
    insert into notes values (1, 1), (2, 2), (3, 3);
    insert into files values (1, '0a000000-0000-4000-8000-00000000000a'), (3, null);";

async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// The adopted application, and its role, which row-level security binds.
async fn application() -> (TestDb, String) {
    let db = small_db(APPLICATION).await;
    migrate(&db, &[]).await.must(0);
    let role = format!("app_{}", db.name);
    db.run(format!(
        "insert into organizations (id, name) values ('0a000000-0000-4000-8000-00000000000a', 'a'),
           ('0b000000-0000-4000-8000-00000000000b', 'b');
         alter table companies add foreign key (organization_id) references organizations;
         alter table files add foreign key (team) references organizations;
         create role {role}; grant select, insert, update, delete on companies, contacts, notes, files to {role}"
    ))
    .await;
    migrate(&db, &["--tables", "companies,contacts,notes,files", "--default-organization"]).await.must(0);
    db.run("select warden.watch('contacts', 'contacts', 'contact')").await;
    (db, role)
}

/// Executes statements of the application, and returns the error of the database.
async fn write(db: &TestDb, role: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut transaction = db.pool.begin().await?;
    transaction.execute(AssertSqlSafe(format!("set local role {role}"))).await?;
    transaction.execute(AssertSqlSafe(sql.to_owned())).await?;
    transaction.commit().await
}

/// Each row of a table with the first letters of its organisation; `a0` is the default one.
async fn organizations(db: &TestDb, table: &str) -> Vec<String> {
    let sql = format!("select id || ' ' || coalesce(left(org_id::text, 2), '-') from {table} order by id");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads")
}

#[tokio::test]
async fn rows_follow_their_parent_until_the_tables_are_enforced() {
    let (db, role) = application().await;
    assert_eq!(organizations(&db, "contacts").await, ["1 0a", "2 0b", "3 a0"]);
    assert_eq!(organizations(&db, "notes").await, ["1 0a", "2 0b", "3 a0"]);

    for statement in [
        // Linked later, with the children; moved; and unlinked.
        "insert into contacts (id) values (4); insert into notes values (4, 4)",
        "update contacts set company_id = 1, body = 'linked' where id in (3, 4)",
        "update contacts set company_id = 2 where id = 4",
        "update contacts set company_id = null where id = 3",
        "update files set team = '0b000000-0000-4000-8000-00000000000b' where id in (1, 3)",
    ] {
        write(&db, &role, statement).await.expect(statement);
    }
    assert_eq!(organizations(&db, "contacts").await, ["1 0a", "2 0b", "3 0a", "4 0b"]);
    assert_eq!(organizations(&db, "notes").await, ["1 0a", "2 0b", "3 0a", "4 0b"]);
    assert_eq!(organizations(&db, "files").await, ["1 0b", "3 0b"]);
    let moved = "update companies set organization_id = '0b000000-0000-4000-8000-00000000000b' where id = 1";
    write(&db, &role, moved).await.expect("moves a company with all that belongs to it");
    assert_eq!(organizations(&db, "contacts").await, ["1 0b", "2 0b", "3 0a", "4 0b"]);
    assert_eq!(organizations(&db, "notes").await, ["1 0b", "2 0b", "3 0a", "4 0b"]);

    // Each organisation sees a row come and go.
    let events: Vec<String> = sqlx::query_scalar(
        "select concat(left(org_id::text, 2), ' ', split_part(event, '.', 2)) from warden.events
         where topic = 'contacts' and data ->> 'id' = '4' order by id",
    )
    .fetch_all(&db.pool)
    .await
    .expect("events");
    assert_eq!(events, ["a0 created", "a0 deleted", "0a created", "0a deleted", "0b created"]);

    // No statement chooses the organisation itself.
    for statement in [
        "update contacts set org_id = '0a000000-0000-4000-8000-00000000000a' where id = 2",
        "update contacts set org_id = '0b000000-0000-4000-8000-00000000000b' where id = 3",
        "update notes set org_id = '0a000000-0000-4000-8000-00000000000a' where id = 2",
    ] {
        let error = write(&db, &role, statement).await.expect_err(statement).to_string();
        assert!(error.contains("cannot be changed"), "{statement}: {error}");
    }
    // The columns of the application can still be dropped and renamed.
    db.run("alter table contacts rename company_id to firm_id").await;
    write(&db, &role, "update contacts set firm_id = 2 where id = 3").await.expect("follows");
    assert_eq!(organizations(&db, "notes").await[2..3], ["3 0b"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
    db.run("insert into companies (id, org_id) values (5, '0a000000-0000-4000-8000-00000000000a')").await;
    db.error("update contacts set firm_id = 5 where id = 3").await;
    db.run("alter table contacts drop column firm_id cascade").await;
}

/// The rule holds for immutable tables too: only a parent moves a row, whatever role writes.
#[tokio::test]
async fn no_role_moves_a_row_of_an_immutable_table_without_its_parent() {
    let (db, role) = application().await;
    db.run(
        "select warden.adopt_table('contacts', null, 'companies', 'company_id', is_immutable => true,
                                   uses_default_organization => true)",
    )
    .await;
    migrate(&db, &[]).await.must(0);
    write(&db, &role, "update contacts set company_id = 2 where id = 3").await.expect("follows");
    assert_eq!(organizations(&db, "contacts").await, ["1 0a", "2 0b", "3 0b"]);
    let error =
        db.error("update contacts set company_id = null, org_id = '0a000000-0000-4000-8000-00000000000a' where id = 2").await;
    assert!(error.contains("cannot be changed"), "{error}");
}

/// A column of the application that names the organisation never disagrees with org_id.
#[tokio::test]
async fn a_column_with_the_organisation_equals_org_id() {
    let (db, role) = application().await;
    // As a database that was adopted when rows did not follow the column.
    let (a, b) = ("0a000000-0000-4000-8000-00000000000a", "0b000000-0000-4000-8000-00000000000b");
    let other = format!(
        "alter table files disable trigger user; update files set team = '{b}' where id = 1; alter table files enable trigger user"
    );
    db.run(other).await;
    let elsewhere = "1 row has an organisation other than their parent's";
    super::audit(db.url()).await.says(&["parent-rows", elsewhere]);
    let run = migrate(&db, &["--enforce", "--yes"]).await.must(1);
    run.says(&["files: has rows whose parent does not exist, or belongs to another organisation"]);
    db.run(format!("update files set team = '{a}' where id = 1")).await;
    migrate(&db, &["--enforce", "--yes"]).await.must(0);

    for statement in [
        format!("insert into files (id, team, org_id) values (7, '{b}', '{a}')"),
        format!("update files set team = '{b}' where id = 1"),
    ] {
        let error = db.error(&statement).await;
        assert!(error.contains("warden_org_id_parent"), "{statement}: {error}");
    }
    db.run(format!("insert into files (id, team, org_id) values (7, '{b}', '{b}'), (8, null, '{b}')")).await;
    // Back ends without claims name the organisation as before; nobody chooses that of a request.
    db.run("alter table files rename team to \"the team\"").await;
    db.run(format!("insert into files (id, \"the team\") values (9, '{a}')")).await;
    let error = db.error("insert into files (id) values (10)").await;
    assert!(error.contains("the new row of public.files has no org_id"), "{error}");
    let insert = format!("insert into files (id, \"the team\") values (10, '{a}')");
    write(&db, &role, &insert).await.expect_err("row-level security rejects it");
    db.run("alter table files rename \"the team\" to team; delete from files where id = 9").await;
    db.run("alter table files drop constraint warden_org_id_parent").await;
    let lacks = "check \"warden_org_id_parent\" is missing";
    super::audit(db.url()).await.says(&[
        "parent-foreign-key",
        lacks,
        "select warden.protect('public.files')",
    ]);
    migrate(&db, &[]).await.must(0);
    migrate(&db, &["--relax", "--yes"]).await.must(0);
    db.run(format!("update files set team = '{a}' where id = 8")).await;
    assert_eq!(organizations(&db, "files").await, ["1 0a", "3 a0", "7 0b", "8 0a"]);
}
