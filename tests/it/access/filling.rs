//! Until the enforce phase no request decides to which organisation a row belongs: only the rule of the
//! filling does.

use std::process::Stdio;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::migrated;
use crate::harness::{TestDb, eventually};

const ORG: &str = "11111111-1111-1111-1111-111111111111";
const OTHER: &str = "22222222-2222-2222-2222-222222222222";
const USER: &str = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";

/// An application with notes of one user, a member of `ORG`. Requests may do everything.
async fn notes(is_immutable: bool) -> TestDb {
    let db = TestDb::create_from("template0").await;
    db.run(format!(
        "create table notes (id int primary key, owner_id uuid not null, body text);
         insert into notes select n, '{USER}' from generate_series(1, 50) n;
         grant all on notes to authenticated"
    ))
    .await;
    migrated(&db, &[]).await;
    db.run(format!(
        "insert into organizations (id, name) values ('{ORG}', 'o'), ('{OTHER}', 'p');
         insert into organization_members (org_id, user_id) values ('{ORG}', '{USER}');
         select warden.adopt_table('notes', 'owner_id', is_immutable => {is_immutable})"
    ))
    .await;
    db
}

async fn request(db: &TestDb) -> PgConnection {
    let mut request = PgConnection::connect(db.url()).await.expect("connects");
    request.execute("set role authenticated").await.expect("sets");
    request
}

async fn organizations(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar("select distinct coalesce(org_id::text, 'none') from notes order by 1")
        .fetch_all(&db.pool)
        .await
        .expect("reads")
}

fn spawn_migration(db: &TestDb) -> tokio::process::Child {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", db.url())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts")
}

/// Error of an attempt to move a row into another organisation.
async fn move_row(request: &mut PgConnection, id: i32) -> String {
    let sql = format!("update notes set org_id = '{OTHER}' where id = {id}");
    request.execute(AssertSqlSafe(sql)).await.expect_err("is rejected").to_string()
}

#[tokio::test]
async fn no_request_chooses_the_organisation_of_a_row_while_it_is_filled() {
    for is_immutable in [true, false] {
        let db = notes(is_immutable).await;
        // The backfill waits for the organisation that it assigns.
        let mut holder = PgConnection::connect(db.url()).await.expect("connects");
        let hold = format!("begin; select from organizations where id = '{ORG}' for update");
        holder.execute(sqlx::raw_sql(AssertSqlSafe(hold))).await.expect("locks");
        let mut migration = spawn_migration(&db);
        let has_column = "select exists (select from pg_attribute where attrelid = 'notes'::regclass and attname = 'org_id')";
        eventually("the column exists", async || {
            sqlx::query_scalar::<_, bool>(has_column).fetch_one(&db.pool).await.expect("reads")
        })
        .await;
        let mut request = request(&db).await;
        let insert = format!("insert into notes (id, owner_id) values (51, '{USER}')");
        request.execute(AssertSqlSafe(insert)).await.expect("inserts");
        let moved = move_row(&mut request, 51).await;
        assert!(moved.contains("org_id of public.notes cannot be changed"), "{is_immutable}: {moved}");
        let chosen = format!("update notes set org_id = '{OTHER}' where id = 1");
        request.execute(AssertSqlSafe(chosen)).await.expect("is possible, without effect");
        holder.execute("rollback").await.expect("releases");
        assert!(migration.wait().await.expect("ends").success());
        assert_eq!(organizations(&db).await, [ORG], "is_immutable: {is_immutable}");
        for phase in [["--enforce", "--yes"], ["--relax", "--yes"]] {
            migrated(&db, &phase).await;
        }
        move_row(&mut request, 51).await;
        // A back end that row-level security does not bind may move rows of such a table.
        let sql = format!("update notes set org_id = '{OTHER}' where id = 2");
        let back_end = db.pool.execute(AssertSqlSafe(sql)).await;
        assert_eq!(back_end.is_ok(), !is_immutable, "{back_end:?}");
    }
}

/// Row-level security that is forced on the parent hides its rows from the fill trigger, which runs as the
/// parent's owner. The child must not go to the default organisation.
#[tokio::test]
async fn a_hidden_parent_leaves_its_children_to_the_backfill() {
    for forced in [
        "alter table projects enable row level security; alter table projects force row level security;
         create policy nobody on projects using (current_setting('app.sees_all', true) = 'yes')",
        "select 1",
    ] {
        let db = TestDb::create_from("template0").await;
        let owner = format!("owner_{}", db.name);
        db.run(format!(
            "create role {owner}; grant usage, create on schema public to {owner};
             create table projects (id int primary key, owner_id uuid); insert into projects values (1, '{USER}');
             create table notes (id int primary key, project_id int references projects);
             alter table projects owner to {owner}; alter table notes owner to {owner}; {forced}"
        ))
        .await;
        migrated(&db, &[]).await;
        db.run(format!(
            "insert into organizations (id, name) values ('{ORG}', 'o');
             insert into organization_members (org_id, user_id) values ('{ORG}', '{USER}');
             select warden.adopt_table('projects', 'owner_id')"
        ))
        .await;
        migrated(&db, &["--enforce", "--yes"]).await;
        db.run("insert into notes values (0, 1); select warden.adopt_table('notes', null, 'projects', 'project_id')")
            .await;
        migrated(&db, &[]).await;
        assert_eq!(organizations(&db).await, [ORG], "of the backfill");
        let insert = format!("set role {owner}; insert into notes (id, project_id) values (1, 1)");
        db.run(insert).await;
        assert_eq!(organizations(&db).await, [ORG, "none"], "of the new row");
        let chosen = format!("set role {owner}; update notes set org_id = '{ORG}' where id = 1");
        db.run(chosen).await;
        assert_eq!(organizations(&db).await, [ORG, "none"], "a request chooses nothing");
        migrated(&db, &[]).await;
        assert_eq!(organizations(&db).await, [ORG], "of the next run");
        migrated(&db, &["--enforce", "--yes"]).await;
    }
}
