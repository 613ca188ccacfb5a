//! Foreign keys of PostgreSQL 18: those of a period, whose last column is a range, and those that are not
//! enforced.

use sqlx::AssertSqlSafe;

use super::{RUN_DEADLINE, audit, ended, small_db, warden};

#[tokio::test]
async fn keys_of_periods_lead_to_an_organisation_and_unenforced_keys_do_not() {
    let db = small_db("select 1").await;
    // Earlier versions do not know these keys.
    if !db.has_version(18).await {
        return;
    }
    db.run(
        "create extension btree_gist;
         create table rooms (id int, valid daterange, owner_id uuid not null, primary key (id, valid without overlaps));
         create table bookings (id int primary key, room_id int not null, valid daterange not null,
           foreign key (room_id, period valid) references rooms (id, period valid));
         create table notes (id int primary key, owner_id uuid not null);
         create table links (id int primary key, note_id int references notes not enforced, owner_id uuid not null);
         insert into rooms values (1, '[2026-01-01,2026-02-01)', '1a000000-0000-4000-8000-00000000000a'),
           (1, '[2026-02-01,2026-03-01)', '1a000000-0000-4000-8000-00000000000a'),
           (2, '[2026-01-01,2026-03-01)', '1b000000-0000-4000-8000-00000000000b');
         -- The first booking needs both rows of its room.
         insert into bookings values (1, 1, '[2026-01-15,2026-02-15)'), (2, 2, '[2026-01-15,2026-02-15)');
         insert into notes values (1, '1a000000-0000-4000-8000-00000000000a');
         insert into links values (1, 1, '1b000000-0000-4000-8000-00000000000b'), (2, 77, '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    let migrate = async |args: &[&str]| {
        let mut command = warden(db.url(), "migrate");
        command.args(args);
        ended(RUN_DEADLINE, command).await
    };
    migrate(&[]).await.must(0);
    db.run(
        "insert into organizations (id, name) values ('0a000000-0000-4000-8000-00000000000a', 'a'),
           ('0b000000-0000-4000-8000-00000000000b', 'b');
         insert into organization_members (org_id, user_id) values
           ('0a000000-0000-4000-8000-00000000000a', '1a000000-0000-4000-8000-00000000000a'),
           ('0b000000-0000-4000-8000-00000000000b', '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    migrate(&["--tables", "rooms,bookings,notes,links"]).await.must(0);
    // The fill trigger follows the same rule, and a row may still lead to no note.
    db.run(
        "insert into bookings values (3, 1, '[2026-01-20,2026-02-20)');
         insert into links values (3, 78, '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    let organizations = async |table: &str| -> Vec<String> {
        let sql =
            format!("select id || ' ' || coalesce(left(org_id::text, 2), '-') from {table} order by id");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads")
    };
    assert_eq!(organizations("bookings").await, ["1 0a", "2 0b", "3 0a"]);
    assert_eq!(organizations("links").await, ["1 0b", "2 0b", "3 0b"]);
    migrate(&["--enforce", "--yes"]).await.must(0);

    let report = audit(db.url()).await.stdout;
    assert!(!report.contains("links_note_id_fkey"), "{report}");
    let (_, loose) = report.split_once("bookings_room_id_valid_fkey").expect("a finding");
    let answer = |line: &&str| line.contains("alter table");
    for statement in loose.lines().skip_while(|line| !answer(line)).take_while(answer) {
        db.run(statement.trim().trim_start_matches("sql> ")).await;
    }
    let report = audit(db.url()).await.stdout;
    assert!(!report.contains("loose-key"), "{report}");
    db.error(
        "insert into bookings (id, room_id, valid, org_id)
         values (4, 1, '[2026-01-20,2026-02-20)', '0b000000-0000-4000-8000-00000000000b')",
    )
    .await;
}
