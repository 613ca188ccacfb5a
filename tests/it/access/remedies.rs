//! Views, functions, triggers and rules that reach every organisation block the enforce phase, and each
//! printed choice ends the question as it is printed.

use super::{migrate, migrated};
use crate::harness::TestDb;

/// Deals, and everything through which requests reach them as the superuser who owns it. Names need quotes,
/// and default privileges grant every right, as on managed PostgreSQL.
const DEALS: &str = r#"
    alter default privileges in schema public grant all on tables to anon, authenticated;
    alter default privileges in schema public grant all on functions to anon, authenticated;
    create table deals (id int primary key, owner_id uuid, state text);
    create table commands (id int primary key, deal_id int, "What" text);
    create view "All deals" as select * from deals;
    create view own_deals as select * from deals; revoke all on own_deals from anon, authenticated;
    create view write_only as select * from deals;
    revoke all on write_only from anon, authenticated; grant delete on write_only to authenticated;
    create materialized view "Copied" as select id from "All deals";
    create function counted() returns bigint language sql as 'select count(*) from public.deals';
    create function "Nested"() returns bigint language sql security definer as 'select public.counted()';
    create function built("Table" text) returns bigint language plpgsql security definer as $$
      declare n bigint; begin execute format('select count(*) from %I', "Table") into n; return n; end $$;
    create function as_xml(query text) returns xml language sql security definer as
      $$ select query_to_xml(query, false, false, '') $$;
    create function plain_xml() returns xml language sql as $$ select table_to_xml('public.deals', false, false, '') $$;
    create function nested_xml() returns xml language sql security definer as 'select public.plain_xml()';
    create function unfiltered() returns bigint language sql set row_security = off as 'select count(*) from public.deals';
    -- A policy and a default use these, so nothing else may be advised.
    create function known_states() returns setof text language sql stable security definer as 'select state from public.deals';
    create table hints (state text); alter table hints enable row level security;
    create policy known on hints using (state in (select known_states()));
    create function first_state() returns text language sql stable security definer as 'select min(state) from public.deals';
    create table drafts (id int, state text default first_state());
    create function act_as(claims text) returns bigint language sql as
      $$ select set_config('request.jwt.claims', claims, true); select count(*) from public.deals $$;
    create function run(command text) returns void language plpgsql as $$ begin execute command; end $$;
    create procedure purge() language sql security definer as 'delete from public.deals';
    create function obey() returns trigger language plpgsql security definer as $$
      begin update public.deals set state = new."What" where id = new.deal_id; return new; end $$;
    create trigger obey after insert on commands for each row execute function obey();
    create view "Deal states" as select 1 as id, 'open'::text as state;
    create function set_state() returns trigger language plpgsql security definer as $$
      begin update public.deals set state = new.state where id = old.id; return new; end $$;
    create trigger set_state instead of update on "Deal states" for each row execute function set_state();
    create function close_others() returns trigger language plpgsql security definer as $$
      begin update public.deals set state = 'closed' where id = new.id + 1; return new; end $$;
    create trigger close_others after update of state on deals for each row when (new.state = 'won')
      execute function close_others();
    create rule "Cancel" as on delete to commands do also delete from deals where id = old.deal_id;
    grant execute on procedure purge() to authenticated with grant option;"#;

/// Subjects of the issues that block the enforce phase, with the number of choices.
const BLOCKING: [(&str, usize); 17] = [
    ("public.\"All deals\"", 3),
    ("public.\"Copied\"", 2),
    ("public.write_only", 3),
    ("public.\"Nested\"()", 3),
    ("public.built(text)", 3),
    // With the rights of its caller, it would run any statement of a caller.
    ("public.as_xml(text)", 2),
    ("public.nested_xml()", 3),
    ("public.unfiltered()", 1),
    ("public.known_states()", 1),
    ("public.first_state()", 2),
    ("public.purge()", 3),
    ("public.act_as(text)", 2),
    ("public.run(text)", 2),
    ("public.obey()", 3),
    // On a registered table: its policies do not limit which other rows the trigger changes.
    ("public.close_others()", 3),
    ("public.set_state()", 3),
    ("public.commands.Cancel", 2),
];

/// The statements that a run prints below each issue, by the issue's subject.
fn printed_choices(text: &str) -> Vec<(String, Vec<String>)> {
    let mut issues: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(issue) = line.strip_prefix("issue: ") {
            let (subject, _) = issue.split_once(": ").expect("a subject");
            issues.push((subject.to_owned(), Vec::new()));
        } else if let Some(statement) = line.strip_prefix("    ").filter(|l| l.contains(';')) {
            issues.last_mut().expect("an issue").1.push(statement.to_owned());
        }
    }
    issues
}

#[tokio::test]
async fn every_printed_choice_ends_the_question() {
    let template = TestDb::create_from("template0").await;
    template.run(DEALS).await;
    migrated(&template, &["--tables", "deals user_column=owner_id", "--default-organization"]).await;
    let (code, text) = migrate(&template, &["--enforce", "--yes"]).await;
    assert_eq!(code, Some(1), "{text}");
    let issues = printed_choices(&text);
    // PostgreSQL 14 has no security_invoker.
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&template.pool)
        .await
        .expect("reads");
    for (subject, choices) in BLOCKING {
        let is_view = subject.ends_with("\"All deals\"") || subject.ends_with("write_only");
        let choices = if is_view && version < 150_000 { choices - 1 } else { choices };
        let found = issues.iter().find(|(s, _)| s == subject).map(|(_, statements)| statements.len());
        assert_eq!(found, Some(choices), "{subject}: {text}");
    }
    assert_eq!(issues.len(), BLOCKING.len(), "{text}");
    template.pool.close().await;
    for n in 0..3 {
        let db = TestDb::create_from(&template.name).await;
        for (_, statements) in &issues {
            db.run(statements[n.min(statements.len() - 1)].clone()).await;
        }
        migrated(&db, &["--enforce", "--yes"]).await;
    }
}
