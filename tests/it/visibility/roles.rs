//! Tables of which other roles than `authenticated` see less than the organisation.

use super::with_salaries;
use crate::harness::TestDb;

/// Tokens of an application may name another role than `authenticated`.
#[tokio::test]
async fn policies_and_column_grants_for_a_role_of_tokens_need_a_decision() {
    let (db, _) = with_salaries().await;
    let agent = format!("agent_{}", db.name);
    let agent = agent.as_str();
    db.run(format!(
        "create role {agent}; grant select on salaries to authenticated, {agent};
         alter table salaries enable row level security;
         create policy org on salaries using (org_id = (select auth_org_id()))"
    ))
    .await;
    const WATCH: &str = "select warden.watch('salaries', 'salaries', 'salary')";
    for (statement, reason) in [
        (String::from("select 1"), None),
        (format!("create policy few on salaries as restrictive to {agent} using (id > 7)"), Some("few")),
        // A reporting tool that logs in has no token.
        (format!("alter role {agent} login"), None),
        (format!("alter role {agent} nologin; alter policy few on salaries using (true)"), None),
        (
            String::from("drop policy few on salaries; alter policy org on salaries to authenticated"),
            Some("no policy"),
        ),
        (format!("create policy own on salaries to {agent} using (id = 7)"), Some("no policy")),
        (format!("revoke select on salaries from {agent}"), None),
        (format!("grant select (id, org_id) on salaries to {agent}"), Some("columns amount")),
        (String::from("drop policy own on salaries"), Some("columns amount")),
        (format!("grant select on salaries to {agent}; alter policy org on salaries to public"), None),
    ] {
        db.run(&statement).await;
        match reason {
            Some(part) => {
                let error = db.error(WATCH).await;
                assert!(error.contains(part) && error.contains(agent), "{statement}: {error}");
                db.run(WATCH.replace("'salary')", "'salary', visibility => 'claim')")).await;
            }
            None => db.run(WATCH).await,
        }
        db.run("select warden.unwatch('salaries')").await;
    }
}

/// An application with a role of its own, in a database that does not use `authenticated`.
#[tokio::test]
async fn policies_for_other_roles_than_authenticated_need_a_decision_too() {
    let db = TestDb::create_from("template0").await;
    warden::postgres::migrate(db.url()).await.expect("migrates");
    let web = format!("web_{}", db.name);
    db.run(format!(
        "create role {web};
         create table journals (id int primary key, org_id uuid not null, owner_id uuid);
         grant select on journals to {web}"
    ))
    .await;
    const WATCH: &str = "select warden.watch('journals', 'journals', 'journal')";
    const WHOLE: &str = "org_id = (select auth_org_id())";
    let web = web.as_str();
    for (statement, reason) in [
        (String::from("select 1"), None),
        (String::from("alter table journals enable row level security"), None),
        (String::from("create policy own on journals using (owner_id is null)"), Some("no policy")),
        (format!("alter policy own on journals using ({WHOLE})"), None),
        (
            format!(
                "drop policy own on journals; create policy own on journals to {web} using (owner_id is null)"
            ),
            Some("no policy"),
        ),
        (format!("create policy whole on journals to {web} using ({WHOLE})"), None),
        (format!("create policy few on journals as restrictive to {web} using (id > 7)"), Some("few")),
        (format!("revoke select on journals from {web}"), None),
        (format!("grant select (id) on journals to {web}"), Some("few")),
        (format!("alter table journals owner to {web}"), None),
        (String::from("alter table journals force row level security"), Some("few")),
    ] {
        db.run(&statement).await;
        match reason {
            Some(part) => {
                let error = db.error(WATCH).await;
                assert!(error.contains(part) && error.contains(web), "{statement}: {error}");
            }
            None => db.run(format!("{WATCH}; select warden.unwatch('journals')")).await,
        }
    }
}
