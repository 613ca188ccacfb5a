//! Attackers with the rights of a request or of an ordinary login try every way of `attacks.sql` to read,
//! write, join or become another organisation: before Warden, while it runs, and after each phase.
//!
//! No attack may succeed that did not succeed before Warden. The enforce phase needs decisions about the
//! application's views and functions. After it, no attack may succeed at all. (What remains possible is in
//! the list as a limit, with the reason.)

mod list;
mod run;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use futures_util::future::join_all;
use serde_json::Value;
use sqlx::Executor as _;
use warden_devkit::cluster::SUPERUSER;

use self::list::{Attack, attacks};
use self::run::{Attacker, Target, run_during, state_of};
use crate::harness::Sample;
use crate::harness::managed::{ManagedDb, Operator};

/// Marks around the table in docs/security.md.
const BEGIN: &str = "<!-- attacks -->";
const END: &str = "<!-- end of attacks -->";

/// Attacks of the suite. `make full` runs all.
static SAMPLE: LazyLock<Sample> = LazyLock::new(|| Sample::one_in(3));

/// Some of those that succeed before Warden.
const SUCCESSFUL_BEFORE: [&str; 3] = ["select from a table", "delete all rows", "select through a view"];

const TABLES: &str = "public.projects,public.documents,public.visits,public.items";

/// A file of this directory.
fn file(name: &str) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/attackers/");
    std::fs::read_to_string(format!("{dir}{name}")).expect("reads")
}

/// Attacks that succeeded, by attacker and name.
type Successes = BTreeSet<(Attacker, String)>;

/// Tries attacks on copies of the database: those that may not succeed, or all if nothing is known yet. The
/// attackers work at the same time, each on copies of its own.
async fn tried(app: &ManagedDb, phase: &str, allowed: Option<&Successes>) -> Successes {
    let list = tries(allowed.unwrap_or(&Successes::new()));
    let found: BTreeMap<(Attacker, String), String> =
        join_all(Attacker::ALL.map(|attacker| tried_by(app, attacker, &list)))
            .await
            .into_iter()
            .flatten()
            .collect();
    let wrong: Vec<String> = found
        .iter()
        .map(|((who, name), gain)| format!("{who:?}: {name}: {}", gain.chars().take(300).collect::<String>()))
        .collect();
    assert!(
        allowed.is_none() || wrong.is_empty(),
        "{phase}: {} attacks succeeded:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    found.into_keys().collect()
}

/// Tries the attacks of one attacker. Returns those that succeeded, and what they gained.
async fn tried_by(
    app: &ManagedDb,
    attacker: Attacker,
    list: &[(Attacker, Attack)],
) -> BTreeMap<(Attacker, String), String> {
    let mut found = BTreeMap::new();
    let mut target = Target::copy_of(app).await;
    for (_, attack) in list.iter().filter(|(who, _)| *who == attacker) {
        let outcome = target.attack(attacker, attack).await;
        if outcome.is_changed {
            target.remove().await;
            target = Target::copy_of(app).await;
        }
        if let Some(gain) = outcome.gain {
            found.insert((attacker, attack.name.clone()), gain);
        }
    }
    target.remove().await;
    found
}

/// Every attack of every attacker in the sample, except these.
fn tries(allowed: &Successes) -> Vec<(Attacker, Attack)> {
    let mut list = attacks();
    let mut index = 0..;
    list.retain(|attack| {
        let is_sampled = index.next().is_some_and(|index| SAMPLE.contains(index));
        is_sampled || SUCCESSFUL_BEFORE.contains(&attack.name.as_str())
    });
    let all = Attacker::ALL.into_iter().flat_map(|who| list.iter().map(move |attack| (who, attack.clone())));
    all.filter(|(who, attack)| !attack.is_limit() && !allowed.contains(&(*who, attack.name.clone())))
        .collect()
}

/// Parts of the state that differ, each with the lines that only one of both states has.
fn differences(one: &Value, other: &Value) -> Vec<String> {
    let parts = one.as_object().expect("a document").iter();
    let changed = parts.filter(|(part, value)| other[part.as_str()] != **value);
    let lines = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    changed
        .map(|(part, value)| {
            let (left, right) = (lines(value), lines(&other[part.as_str()]));
            let missing: Vec<&Value> = left.iter().filter(|line| !right.contains(line)).collect();
            let added: Vec<&Value> = right.iter().filter(|line| !left.contains(line)).collect();
            format!("{part}: without {missing:?}, with {added:?}")
        })
        .collect()
}

/// Runs `warden migrate` while attackers try what did not succeed before. The database must then be equal to
/// a copy on which the same command ran without attackers.
async fn migrate_under_attack(app: &ManagedDb, arguments: &[&str], before: &Successes) {
    let all = [&["migrate"], arguments].concat();
    let quiet = app.copy().await;
    let migration = app.warden(&all);
    tokio::pin!(migration);
    let list = tries(before);
    let count = Cell::new(0);
    let attackers = join_all(Attacker::ALL.map(async |attacker| {
        for (_, attack) in list.iter().filter(|(who, _)| *who == attacker).cycle() {
            let gain = run_during(app, attacker, attack).await;
            assert_eq!(gain, None, "{attacker:?}: {}: during warden {}", attack.name, all.join(" "));
            count.update(|n| n + 1);
        }
    }));
    let run = tokio::select! {
        run = &mut migration => run,
        _ = attackers => unreachable!("the lists have no end"),
    };
    eprintln!("{} attempts of {} attacks during warden {}", count.get(), list.len(), all.join(" "));
    run.must(0);
    quiet.warden(&all).await.must(0);
    let (attacked, unharmed) = (state_of(app).await, state_of(&quiet).await);
    let changed = differences(&unharmed, &attacked);
    assert!(changed.is_empty(), "changed during warden {}:\n{}", all.join(" "), changed.join("\n"));
    quiet.remove().await;
}

#[tokio::test]
async fn no_attack_succeeds_that_did_not_before_and_none_after_enforce() {
    let app = ManagedDb::create(Operator::Managed).await;
    app.run_as_operator(&file("target.sql")).await;
    let before = tried(&app, "before", None).await;
    eprintln!("{} of {} attempts succeed before Warden", before.len(), tries(&Successes::new()).len());
    // The fixture is hostile: otherwise the later phases would show nothing.
    for name in SUCCESSFUL_BEFORE {
        assert!(before.contains(&(Attacker::Anon, name.to_owned())), "{name}: {before:?}");
    }

    migrate_under_attack(&app, &[], &before).await;
    app.add_organizations().await;
    tried(&app, "after the core", Some(&before)).await;

    migrate_under_attack(&app, &["--tables", TABLES], &before).await;
    tried(&app, "after the expand phase", Some(&before)).await;

    answer_the_questions(&app).await;
    migrate_under_attack(&app, &["--tables", TABLES, "--enforce", "--yes"], &before).await;
    tried(&app, "after the enforce phase", Some(&Successes::new())).await;
    limits_remain(&app).await;

    migrate_under_attack(&app, &["--tables", TABLES, "--relax", "--yes"], &before).await;
    tried(&app, "after --relax", Some(&before)).await;
}

/// Decides about the application's own views and functions, as an operator does it. Until then enforcement
/// is blocked.
async fn answer_the_questions(app: &ManagedDb) {
    let run = app.warden(&["audit", "--json"]).await;
    let blocked = app.warden(&["migrate", "--tables", TABLES, "--enforce", "--yes"]).await.must(1);
    for object in ["project_list", "project_report", "project_secret", "projects_as", "sorted_projects"] {
        assert!(run.stdout.contains(object), "the audit does not report {object}: {}", run.stdout);
        assert!(blocked.stdout.contains(object), "{object} does not block: {}", blocked.stdout);
    }
    app.run_as_operator(
        "revoke all on project_list, project_report from public, anon, authenticated;
         revoke all on function project_secret(uuid), projects_as(text), sorted_projects(text)
           from public, anon, authenticated",
    )
    .await;
    // PostgreSQL 14 allows PUBLIC to create objects in this schema, and the audit reports it.
    let mut superuser = app.connect_as(SUPERUSER).await;
    superuser.execute("revoke create on schema public from public").await.expect("revokes");
}

/// Limits are tried too: one that no longer exists must leave the list.
async fn limits_remain(app: &ManagedDb) {
    let mut target = Target::copy_of(app).await;
    for attack in attacks().iter().filter(|a| a.is_limit()) {
        let outcome = target.attack(Attacker::Authenticated, attack).await;
        assert!(!outcome.seen.contains("permission denied"), "{}: {}", attack.name, outcome.seen);
    }
    target.remove().await;
}

#[test]
fn the_documented_attacks_are_those_of_the_list() {
    let list = attacks();
    let names: BTreeSet<&str> = list.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names.len(), list.len(), "names are unique");
    assert!(list.iter().filter(|a| !a.is_limit()).count() >= 60);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
    let page = std::fs::read_to_string(path).expect("reads");
    let (head, rest) = page.split_once(BEGIN).expect("the beginning of the table");
    let (_, tail) = rest.split_once(END).expect("the end of the table");
    let wanted = format!("{head}{BEGIN}\n{}{END}{tail}", table(&list));
    if std::env::var_os("WARDEN_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).expect("writes");
    }
    assert!(page == wanted || std::env::var_os("WARDEN_WRITE_DOCS").is_some(), "run `make docs-attacks`");
}

fn table(list: &[Attack]) -> String {
    let mut text = String::from("| aim | attacks |\n|---|---|\n");
    for aim in ["read", "write", "join", "become"] {
        let names: Vec<&str> = list.iter().filter(|a| a.aim == aim).map(|a| a.name.as_str()).collect();
        text.push_str(&format!("| {aim} ({}) | {} |\n", names.len(), names.join("; ")));
    }
    text.push_str("\n| remains possible | because |\n|---|---|\n");
    for attack in list.iter().filter(|a| a.is_limit()) {
        text.push_str(&format!("| {} | {} |\n", attack.name, attack.reason.as_deref().unwrap_or_default()));
    }
    text
}
