//! Events of rows that are too large: they keep the key, the columns of filters, and the smallest other
//! columns.

use fastrand::Rng;
use sqlx::{Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::strings;
use crate::harness::TestDb;

/// Random tables of the suite; `WARDEN_TABLES` sets another number.
const TABLES: usize = 6;

/// Columns of a random table, besides the key and the organisation.
const COLUMNS: usize = 8;

/// A column type, and an SQL expression for a value that takes about {n} bytes. {salt} makes values differ.
const TYPES: [(&str, &str); 7] = [
    ("text", "repeat('{salt}', {n})"),
    ("text", "(select string_agg(md5(concat(i, '{salt}')), '') from generate_series(1, 1 + {n} / 32) i)"),
    ("jsonb", "jsonb_build_object('{salt}', repeat('\"', {n} / 2))"),
    ("json", "to_json(repeat('{salt}', {n}))"),
    ("bytea", "convert_to(repeat('{salt}', {n} / 2), 'UTF8')"),
    ("int[]", "array_fill(ascii('{salt}'), array[{n} / 12])"),
    ("numeric", "('1' || repeat('0', {n} % 300))::numeric / ascii('{salt}')"),
];

fn value(rng: &mut Rng, column_type: &str, expression: &str) -> String {
    let bytes = match rng.u8(..10) {
        0 => return format!("null::{column_type}"),
        1..=4 => rng.usize(0..200),
        // Around the limit of the columns that every event keeps.
        5 => rng.usize(8_100..8_300),
        6 => *rng.choice(&[10_000, 20_000]).expect("not empty"),
        7 | 8 => rng.usize(10_000..60_000),
        _ => rng.usize(60_000..150_000),
    };
    let salt = rng.choice(["a", "b", "c"]).expect("not empty");
    expression.replace("{n}", &bytes.to_string()).replace("{salt}", salt)
}

/// Settings of sessions that write, which must not change the bytes of events.
const SETTINGS: [&str; 4] = [
    "reset all",
    "set bytea_output = escape; set default_toast_compression = pglz",
    "set search_path = pg_temp, public; set extra_float_digits = -15; set plpgsql.variable_conflict = use_column",
    "set standard_conforming_strings = off; set enable_seqscan = off; set quote_all_identifiers = on",
];

#[tokio::test]
async fn truncated_events_keep_the_key_filter_columns_and_the_smallest_others() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let tables = std::env::var("WARDEN_TABLES").ok().and_then(|s| s.parse().ok()).unwrap_or(TABLES);
    eprintln!("WARDEN_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(include_str!("truncated.sql")).await;
    let mut truncated = 0;
    for n in 0..tables {
        let types: Vec<_> = (0..COLUMNS).map(|_| TYPES[rng.usize(..TYPES.len())]).collect();
        let columns: Vec<Column> =
            types.into_iter().enumerate().map(|(i, kind)| (format!("c{i}"), kind)).collect();
        // Filters on columns whose text has the length of the value.
        let is_filter = |column: &&Column| column.1.0 == "text" && rng.bool();
        let filters: Vec<&str> = columns.iter().filter(is_filter).map(|(name, _)| name.as_str()).collect();
        let filters = filters.join(",");
        db.run(definition(&mut rng, &columns)).await;
        db.run(format!("select warden.watch('probe', 'probe', 'probe', filter_columns => '{{{filters}}}')"))
            .await;
        let mut writer = PgConnection::connect(db.url()).await.expect("connects");
        let settings = SETTINGS[n % SETTINGS.len()];
        for statement in statements(&mut rng, &columns, org) {
            let sql = format!("{settings}; {statement}; reset all");
            writer.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("writes");
        }
        truncated += strings(&db, "select id::text from warden.events where truncated").await.len();
        db.run(format!("call check_events('{{{filters}}}')")).await;
        let problems = strings(&db, "select distinct what from problems").await;
        let table = format!("WARDEN_SEED={seed}, table {n}, filters {filters}, {columns:?}");
        assert!(problems.is_empty(), "{table}: {problems:#?}");
        db.run("drop table probe; delete from states; delete from warden.events").await;
    }
    assert!(truncated > 0, "no row was too large");
}

/// The name of a column, and one of [`TYPES`].
type Column = (String, (&'static str, &'static str));

/// Creates a table with these columns, which stores some of them in another way.
fn definition(rng: &mut Rng, columns: &[Column]) -> String {
    let definitions: Vec<String> = columns.iter().map(|(name, (kind, _))| format!("{name} {kind}")).collect();
    let partitions = "partition by hash (id);
        create table probe_0 partition of probe for values with (modulus 2, remainder 0);
        create table probe_1 partition of probe for values with (modulus 2, remainder 1)";
    let mut sql = format!(
        "create table probe ({}, id int primary key, org_id uuid, changes int default 0) {};",
        definitions.join(", "),
        if rng.bool() { partitions } else { "" }
    );
    let storage = rng.choice(["external", "extended", "main"]).expect("not empty");
    for (name, (kind, _)) in columns {
        if *kind != "numeric" && rng.bool() {
            sql += &format!("alter table probe alter {name} set storage {storage};");
        }
    }
    sql
}

/// Statements that insert five rows, update them twice, and delete them.
fn statements(rng: &mut Rng, columns: &[Column], org: Uuid) -> Vec<String> {
    let all = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let mut rows = || {
        let mut row = |id| {
            let values: Vec<String> =
                columns.iter().map(|(_, (kind, expression))| value(rng, kind, expression)).collect();
            format!("select {}, {id}, '{org}'::uuid", values.join(", "))
        };
        (1..=5).map(&mut row).collect::<Vec<_>>().join(" union all ")
    };
    let (inserted, first, second) = (rows(), rows(), rows());
    let mut update = |rows: &str, step: u8| {
        let set: String =
            columns.iter().filter(|_| rng.bool()).map(|(name, _)| format!("{name} = x.{name}, ")).collect();
        format!(
            "update public.probe p set {set}changes = changes + 1 from ({rows}) x ({all}, id, org_id)
             where p.id = x.id; call public.remember({step})"
        )
    };
    vec![
        format!("insert into public.probe ({all}, id, org_id) {inserted}; call public.remember(1)"),
        update(&first, 2),
        update(&second, 3),
        "delete from public.probe".to_owned(),
    ]
}

/// The columns of a filter follow their table: renamed, dropped, and added again.
#[tokio::test]
async fn filter_columns_follow_renamed_columns() {
    for follows_ddl in [true, false] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches disable").await;
        }
        // Without filters, the columns p1 to p8 fit, and no other column of 8 KB.
        let others = |separator: &str, text: &str| {
            (1..=8).map(|n| text.replace("{n}", &n.to_string())).collect::<Vec<_>>().join(separator)
        };
        let (pages, values) = (others(", ", "p{n}"), others(", ", "repeat('{n}', 7900)"));
        db.run(format!(
            "create table notes (id int primary key, org_id uuid not null, status text, agent text, {});
             select warden.watch('notes', 'notes', 'note', filter_columns => '{{status,agent}}')",
            others(", ", "p{n} text")
        ))
        .await;
        let sent = "select concat_ws(' ', string_agg(k, ' ' order by k) filter (where k !~ '^p'),
                                     count(*) filter (where k ~ '^p'))
                    from warden.events e, jsonb_object_keys(e.data) k
                    where e.truncated and e.id = (select max(id) from warden.events)";
        for (id, (change, columns, expected)) in [
            ("select", "status, agent", "agent id org_id status 6"),
            ("alter table notes rename status to state", "state, agent", "agent id org_id state 6"),
            ("alter table notes rename agent to status", "state, status", "id org_id state status 6"),
            (
                "alter table notes drop status; alter table notes add extra text",
                "state, extra",
                "id org_id state 7",
            ),
            ("select warden.refresh_watches()", "state, extra", "id org_id state 7"),
        ]
        .into_iter()
        .enumerate()
        {
            db.run(change).await;
            db.run(format!(
                "insert into notes ({columns}, {pages}, id, org_id)
                 select repeat('s', 8192), repeat('a', 8100), {values}, {id}, '{org}'"
            ))
            .await;
            assert_eq!(strings(&db, sent).await, [expected], "{change}, follows: {follows_ddl}");
            // The stored row is compressed.
            db.run(format!("delete from notes where id = {id}")).await;
            assert_eq!(strings(&db, sent).await, [expected], "{change}, follows: {follows_ddl}");
        }
        db.run(format!(
            "insert into notes (state, {pages}, id, org_id) select repeat('s', 8193), {values}, 99, '{org}'"
        ))
        .await;
        db.run("update notes set p8 = p8 || p8").await;
        assert_eq!(
            strings(&db, sent).await,
            ["extra id org_id 7"],
            "a filter column above 8 KiB is left out"
        );
    }
}

#[tokio::test]
async fn rows_name_their_watch_and_published_events_do_not() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table items (id int, org_id uuid not null, part int, note text, primary key (id, part)) partition by list (part);
         create table items_1 partition of items for values in (1); create table items_2 partition of items for values in (2);
         create table lines (id int primary key, org_id uuid not null, n int default 0);
         create function follow() returns trigger language plpgsql as
           $$ begin update lines set n = n + 1 where id = new.id; return new; end $$;
         create trigger follow after insert on lines for each row execute function follow();
         select warden.watch('items', 'items', 'item', replicated => true), warden.watch('lines', 'lines', 'line');
         insert into items values (1, '{org}', 1, 'a'), (2, '{org}', 1, repeat('b', 70000)), (3, '{org}', 1, 'c');
         update items set part = 2 where id < 3; delete from items where id = 1;
         set session_replication_role = replica; update items set note = 'd' where id = 3;
         reset session_replication_role;
         alter event trigger warden_refresh_watches disable; alter table items add extra int;
         update items set extra = 1 where id = 2;
         insert into lines values (1, '{org}');
         select warden.publish('{org}', 'items', 'item.created', '{{\"id\": 9}}')"
    ))
    .await;
    let is_15 = strings(&db, "select current_setting('server_version_num')").await[0].as_str() >= "150000";
    if is_15 {
        db.run(
            "merge into items t using (values (2), (3)) s (id) on t.id = s.id
             when matched and t.id = 2 then update set part = 1 when matched then update set part = 2",
        )
        .await;
    }
    let events = "select concat_ws(' ', e.event, count(*), w.topic) from warden.events e
                  left join warden.watches w on w.id = e.watch
                  where e.org_id is not null and e.topic in ('items', 'lines') group by e.event, w.topic order by 1";
    let found = strings(&db, events).await;
    let published: Vec<_> = found.iter().filter(|line| line.split(' ').count() == 2).collect();
    assert_eq!(published, ["item.created 1"], "{found:#?}");
    assert_eq!(found.iter().filter(|line| line.ends_with(" lines")).count(), 2, "{found:#?}");
    assert!(found.iter().filter(|line| line.ends_with(" items")).count() >= 3, "{found:#?}");
}

/// An update that moves a row to another partition through MERGE is logged from the stored halves of the
/// move.
#[tokio::test]
async fn a_large_row_that_moves_keeps_the_same_columns() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    if strings(&db, "select current_setting('server_version_num')").await[0].as_str() < "150000" {
        return;
    }
    db.run(format!(
        "create table items (id int, org_id uuid not null, part int, status text, note text, primary key (id, part))
           partition by list (part);
         create table items_1 partition of items for values in (1); create table items_2 partition of items for values in (2);
         select warden.watch('items', 'items', 'item', key_columns => '{{id}}', filter_columns => '{{status}}');
         insert into items values (1, '{org}', 1, 'open', repeat('b', 70000)), (2, '{org}', 1, 'open', 'short'),
                                  (3, '{org}', 1, 'open', repeat('b', 70000));
         merge into items t using (values (1, repeat('c', 70000)), (2, repeat('d', 70000)), (3, 'e')) s (id, note) on t.id = s.id
           when matched then update set part = 2, note = s.note, status = 'done'"
    ))
    .await;
    let events = "select concat_ws(' ', event, data - 'org_id', old, truncated) from warden.events
                  where event = 'item.updated' order by data -> 'id'";
    let row = |id: u8| {
        format!(
            r#"item.updated {{"id": {id}, "part": 2, "status": "done"}} {{"part": 1, "status": "open"}} t"#
        )
    };
    assert_eq!(strings(&db, events).await, [row(1), row(2), row(3)]);
}

#[tokio::test]
async fn of_equally_large_columns_the_last_one_is_left_out() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table notes (d text, c text, b text, id int primary key, a text, org_id uuid not null);
         select warden.watch('notes', 'notes', 'note');
         insert into notes
         select repeat('d', 20000), repeat('c', 20000), repeat('b', 20000), 1, repeat('a', 20000), '{org}'"
    ))
    .await;
    let sent = "select string_agg(k, ' ' order by k) from warden.events, jsonb_object_keys(data) k where event = 'note.created'";
    assert_eq!(strings(&db, sent).await, ["b c d id org_id"]);
}
