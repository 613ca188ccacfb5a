//! Functions of the application that fail once a table has one more column: they are found before anything is
//! changed.

use super::{bare_db, migrate};

/// Each function, and whether it fails when `notes` gets a column.
const FUNCTIONS: &[(&str, &str, bool)] = &[
    ("selected", "trigger as 'begin insert into history select old.*, now(); return new; end'", true),
    ("valued", "trigger as 'begin insert into history values ((old).*); return new; end'", true),
    ("last", "trigger as 'begin insert into history values (1, now(), new . *); return new; end'", true),
    (
        "named",
        "trigger as 'begin insert into history (id) values (old.id); if row(new.*) is distinct from row(old.*)
           then perform to_jsonb(new.*); end if; return new; end'",
        false,
    ),
    ("listed", "table (id int, owner_id uuid) language sql as 'select * from notes'", true),
    ("queried", r#"table (id int, owner_id uuid) as 'begin return query select n.* from public."notes" n; end'"#, true),
    ("archived", "void language sql as 'insert into history select *, now() from only notes'", true),
    ("same", "setof notes language sql as 'select * from notes'", false),
    ("looped", "void as 'declare r record; begin for r in select * from notes loop null; end loop; end'", false),
    ("quoted", "void as 'begin raise notice ''insert into history select * from notes''; end'", false),
    ("commented", "void as 'begin null; -- insert into history select * from notes\n end'", false),
    ("other", "table (id int, owner_id uuid) language sql as 'select * from other_notes'", false),
];

#[tokio::test]
async fn functions_that_expand_whole_rows_stop_the_run_before_it_changes_anything() {
    let functions: String = FUNCTIONS
        .iter()
        .map(|(name, rest, _)| {
            let language = if rest.contains("language sql") { "" } else { " language plpgsql" };
            let trigger = if rest.starts_with("trigger") {
                format!(
                    "create trigger {name} before update on notes for each row execute function {name}();"
                )
            } else {
                String::new()
            };
            format!("create function {name}() returns {rest}{language}; {trigger}")
        })
        .collect();
    let db = bare_db(&format!(
        "create table notes (id int, owner_id uuid); create table other_notes (like notes);
         create table history (like notes); alter table history add at timestamptz; {functions}"
    ))
    .await;
    let run = migrate(db.url(), &["--tables", "public.notes"]).await.must(1);
    for (name, _, fails) in FUNCTIONS {
        assert_eq!(
            run.stdout.contains(&format!("function public.{name}()")),
            *fails,
            "{name}: {}",
            run.stdout
        );
    }
    let schemas: i64 = sqlx::query_scalar("select count(*) from pg_namespace where nspname = 'warden'")
        .fetch_one(&db.pool)
        .await
        .expect("counts");
    assert_eq!(schemas, 0, "nothing is changed");
    let mut arguments = vec!["--tables", "public.notes"];
    let accepted: Vec<String> =
        FUNCTIONS.iter().filter(|function| function.2).map(|(name, ..)| format!("public.{name}")).collect();
    for name in &accepted {
        arguments.extend(["--accept", name.as_str()]);
    }
    migrate(db.url(), &arguments).await.must(0);
    // A function that the run does not name works as before.
    db.run("select * from same(); select looped(); select quoted(); select * from other()").await;
    migrate(db.url(), &[]).await.must(0).idle();
}
