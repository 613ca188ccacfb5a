//! Memberships of the application that ordinary roles may write without a right on their table, in the first
//! phase; functions that came after a table was enforced; and an event trigger that stops the run.

use super::existing_objects::plain;
use super::{bare_db, connect};
use crate::harness::TestDb;
use crate::legacy::catalog;

/// Memberships on which requests have no rights, and what else is granted to them. The names of a function, a
/// trigger and a rule need quotes.
const MEMBERSHIPS: &str = r#"
    do $$ declare r text; begin
      foreach r in array array['anon', 'authenticated'] loop
        begin
          execute format('create role %I nologin noinherit', r);
        exception when duplicate_object or unique_violation then null;
        end;
      end loop;
    end $$;
    create table organizations (id uuid primary key, name text);
    create table organization_members (org_id uuid references organizations on delete cascade, user_id uuid);
    create view readable as select org_id from organization_members; grant select on readable to authenticated;
    create function is_member(org uuid) returns boolean language sql security definer as
      'select exists (select from public.organization_members m where m.org_id = org)';
    create function with_own_rights(org uuid) returns void language sql as
      'insert into public.organization_members values (org, null)';
    create function closed(org uuid) returns void language sql security definer as
      'insert into public.organization_members values (org, null)';
    revoke execute on function closed(uuid) from public;"#;

/// Ways to write them, with the issue's subject.
const WAYS: [(&str, &str); 9] = [
    (
        "create view my_memberships as select * from organization_members where user_id is null;
         grant insert on my_memberships to authenticated",
        "public.my_memberships",
    ),
    (
        "create view inner_memberships as select * from organization_members;
         create view \"Outer\" as select * from inner_memberships; grant update (org_id) on \"Outer\" to anon",
        "public.\"Outer\"",
    ),
    (
        "create function join_organization(org uuid) returns void language sql security definer as
           'insert into public.organization_members values (org, null)'",
        "public.join_organization",
    ),
    (
        "create function add_member(org uuid) returns void language plpgsql as
           $$ begin insert into public.organization_members values (org, null); end $$;
         create function \"Join\"(org uuid, \"user\" uuid) returns void language sql security definer as
           'select public.add_member(org)'",
        "public.\"Join\"",
    ),
    (
        "create function run(statement text) returns void language plpgsql security definer as
           'begin execute statement; end'",
        "public.run",
    ),
    (
        "create function report(query text) returns xml language sql security definer as
           $$ select query_to_xml(query, false, false, '') $$",
        "public.report",
    ),
    (
        "create table invitations (org uuid); grant insert on invitations to authenticated;
         create function accept_invitation() returns trigger language plpgsql security definer as
           'begin insert into public.organization_members values (new.org, null); return new; end';
         create trigger \"Accept\" after insert on invitations for each row execute function accept_invitation()",
        "public.accept_invitation",
    ),
    (
        "create table requests (org uuid); grant insert on requests to authenticated;
         create rule \"Join\" as on insert to requests do also insert into organization_members values (new.org, null)",
        "public.requests.Join",
    ),
    (
        "create procedure leave(org uuid) language sql security definer begin atomic
           delete from public.organization_members m where m.org_id = org; end",
        "public.leave",
    ),
];

const NAMED: [&str; 2] = ["--tables", "organizations,organization_members"];

/// The subjects of the issues.
fn subjects(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("issue: ")?.split_once(": ")).map(|(s, _)| s).collect()
}

/// The statements that the issues print.
fn statements(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| line.starts_with("revoke ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn indirect_writes_of_memberships_stop_the_run_until_closed_or_accepted() {
    let db = bare_db(MEMBERSHIPS).await;
    for (sql, _) in WAYS {
        db.run(sql).await;
    }
    let mut wanted: Vec<&str> = WAYS.iter().map(|(_, subject)| *subject).collect();
    wanted.sort_unstable();
    let before = catalog(&mut connect(&db).await).await;
    for plan in [&["--plan"][..], &[]] {
        let run = plain(db.url(), &[&NAMED[..], plan].concat()).await.must(1).says(&["Nothing was changed"]);
        let mut found = subjects(&run.stdout);
        found.sort_unstable();
        assert_eq!(found, wanted, "{}", run.stdout);
        assert_eq!(catalog(&mut connect(&db).await).await, before);
    }
    db.pool.close().await;

    let accepted = TestDb::create_from(&db.name).await;
    let names = wanted.join(",");
    plain(accepted.url(), &[&NAMED[..], &["--accept", &names]].concat()).await.must(0);
    plain(accepted.url(), &[]).await.must(0);
    // The later phase and the audit do not ask again. The view is one of a view: a question of its own.
    let run = plain(accepted.url(), &["--plan", "--enforce"]).await;
    let later = subjects(&run.stdout);
    let again: Vec<&&str> =
        later.iter().filter(|s| wanted.contains(&s.split('(').next().unwrap_or(s))).collect();
    assert!(again.is_empty(), "{}", run.stdout);

    let closed = TestDb::create_from(&db.name).await;
    let run = plain(closed.url(), &NAMED).await.must(1);
    for statement in statements(&run.stdout) {
        closed.run(statement).await;
    }
    plain(closed.url(), &NAMED).await.must(0);
}

/// It does not touch a table that is to be enforced: all are enforced already.
#[tokio::test]
async fn a_later_function_that_writes_memberships_blocks_the_enforce_phase() {
    let db = bare_db("create table notes (id int primary key, owner_id uuid)").await;
    plain(db.url(), &["--tables", "notes"]).await.must(0);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
    db.run(
        "create function join_organization(org uuid) returns void language sql security definer as
           'insert into public.organization_members (org_id, user_id) values (org, gen_random_uuid())'",
    )
    .await;
    for args in [&["--plan", "--enforce"][..], &["--enforce", "--yes"]] {
        plain(db.url(), args).await.must(1).says(&[": public.join_organization(uuid): "]);
    }
    db.run("select warden.accept_finding('definer-function', 'public.join_organization(uuid)', 'it checks the invitation')")
        .await;
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
}

/// The function of this event trigger writes with the rights of the role that creates an object: Warden's.
#[tokio::test]
async fn an_event_trigger_of_the_application_that_fails_is_named() {
    let db = bare_db(
        "create table commands (tag text);
         create function \"Log command\"() returns event_trigger language plpgsql as
           'begin insert into public.commands values (tg_tag); end';
         create event trigger \"Log commands\" on ddl_command_end execute function \"Log command\"()",
    )
    .await;
    for plan in [&["--plan"][..], &[]] {
        let run = plain(db.url(), plan).await.must(1);
        let says =
            ["the event trigger \"Log commands\" of the application", "permission denied for table commands"];
        assert!(says.iter().all(|part| run.stderr.contains(part)), "{}", run.stderr);
    }
    db.run("alter function \"Log command\"() security definer").await;
    plain(db.url(), &[]).await.must(0);
}
