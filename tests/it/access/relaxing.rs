//! Restrictions of an application that are newer than the isolation of its tables: they remain when it ends.

use super::examples::{NOTES, adopted, affected};
use super::{audited, migrated};
use crate::harness::TestDb;

/// A copy of the table `notes` for each case, adopted and isolated.
async fn isolated(names: &[&str], before: &[&str]) -> TestDb {
    let copy = |(name, before): (&&str, &&str)| {
        format!(
            "create table {name} (like notes including all); insert into {name} select * from notes;
             grant all on {name} to anon, authenticated; {before}"
        )
    };
    let copies: String = names.iter().zip(before).map(copy).collect();
    let register: Vec<String> =
        names.iter().map(|name| format!("warden.adopt_table('{name}', 'owner_id')")).collect();
    let db = adopted(&format!("{NOTES} {copies}"), &format!("select {}", register.join(", "))).await;
    migrated(&db, &["--enforce", "--yes"]).await;
    db
}

#[tokio::test]
async fn relaxing_gives_no_role_rights_back_that_has_lost_others() {
    let cases = [
        ("unchanged", "select 1", Some(0)),
        ("given_more", "grant select on given_more to anon with grant option", Some(0)),
        ("lost_insert", "revoke insert on lost_insert from authenticated", None),
        (
            "lost_all",
            "revoke all on lost_all from anon, authenticated; grant select on lost_all to authenticated",
            None,
        ),
    ];
    let db = isolated(&cases.map(|case| case.0), &[""; 4]).await;
    for (_, restrict, _) in cases {
        db.run(restrict).await;
    }
    // A second run records nothing new.
    migrated(&db, &["--enforce", "--yes"]).await;
    migrated(&db, &["--relax", "--yes"]).await;
    for (name, _, truncates) in cases {
        assert_eq!(affected(&db, &[&format!("truncate {name}")]).await, [truncates], "{name}");
    }
}

#[tokio::test]
async fn relaxing_keeps_row_level_security_for_policies_that_are_newer_than_the_isolation() {
    let dormant = |name: &str| format!("create policy \"dormant, [odd]. %s\" on {name} using (false);");
    let own =
        |name: &str| format!("create policy own on {name} to authenticated using (owner_id = auth.uid());");
    let few =
        |name: &str| format!("create policy few on {name} as restrictive using (owner_id = auth.uid());");
    let cases = [
        ("unchanged", String::new(), String::new(), 50),
        ("was_dormant", dormant("was_dormant"), String::new(), 50),
        ("got_own", String::new(), own("got_own"), 1),
        ("got_own_too", dormant("got_own_too"), own("got_own_too"), 1),
        ("got_few", dormant("got_few"), few("got_few"), 0),
        ("tried", String::new(), format!("{} drop policy own on tried;", own("tried")), 50),
    ];
    let names = [0, 1, 2, 3, 4, 5].map(|n| cases[n].0);
    let before = [0, 1, 2, 3, 4, 5].map(|n| cases[n].1.as_str());
    let db = isolated(&names, &before).await;
    for (name, _, later, _) in &cases {
        // Warden's own policy is dropped and created again, and the record remains.
        db.run(format!("{later} drop policy warden_granted on {name}; select warden.protect('{name}')"))
            .await;
    }
    let found = audited(&db).await;
    assert_eq!(found.matches("finding  other-policy").count(), 2, "the two that have no effect: {found}");
    migrated(&db, &["--relax", "--yes"]).await;
    for (name, _, _, rows) in &cases {
        assert_eq!(affected(&db, &[&format!("select from {name}")]).await, [Some(*rows)], "{name}");
    }
}
