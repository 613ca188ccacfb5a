//! Decisions about existing objects: those of the command line, and those that earlier runs recorded.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

use super::choices::{Choices, object_name};

/// Rule of `warden.decisions` for objects that are kept or replaced.
const EXISTING: &str = "existing-object";
/// Rule for accepted findings of the checks.
const ACCEPTED: &str = "preflight";

/// Rule of the audit about owners of organisations and memberships. Its objects are '<table>.<role>'.
const OWNER: &str = "organization-owner";
const OWNED: [&str; 2] = ["public.organizations.", "public.organization_members."];

/// Rules of the audit about views, functions and rules that write to memberships.
const BYPASS: [&str; 3] = ["bypassing-view", "definer-function", "rewrite-rule"];

/// Decision about an existing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// It remains the application's.
    Keep,
    /// Warden replaces it.
    Replace,
}

/// All decisions that are known.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    objects: BTreeMap<String, Choice>,
    accepted: Vec<String>,
    /// Names on the command line that no check knows are reported.
    pub(super) named: Vec<String>,
    /// Names that this run accepts and no earlier one accepted.
    pub(super) newly_accepted: Vec<String>,
    /// Whether organisations of the application were named, in this run or an earlier one.
    pub(super) uses_organizations: bool,
}

impl Decisions {
    pub(super) async fn load(connection: &mut PgConnection, choices: &Choices) -> anyhow::Result<Self> {
        let mut decisions = Self::default();
        if exists(&mut *connection, "warden.decisions").await? {
            let recorded: Vec<(String, String, String)> =
                sqlx::query_as("select rule, object, choice from warden.decisions")
                    .fetch_all(&mut *connection)
                    .await
                    .context("cannot read warden.decisions")?;
            for (rule, object, choice) in recorded {
                // A replaced object that exists again is a new one, and a new question.
                if rule == EXISTING && choice == "keep" {
                    decisions.objects.insert(object, Choice::Keep);
                } else if rule == ACCEPTED {
                    decisions.accepted.push(object);
                } else if BYPASS.contains(&rule.as_str()) {
                    // The name of a function has its arguments here.
                    decisions.accepted.extend(object.split('(').next().map(str::to_owned));
                } else if rule == OWNER {
                    let role = OWNED.iter().find_map(|table| object.strip_prefix(table));
                    decisions.accepted.extend(role.map(str::to_owned));
                }
            }
        }
        // The core's registry names them from the run that first used them.
        decisions.uses_organizations =
            choices.uses_organizations || exists(&mut *connection, "warden.tenant_tables").await?;
        for table in &choices.tables {
            decisions.uses_organizations |= ["public.organizations", "public.organization_members"]
                .contains(&table.table.title().as_str());
        }
        for (names, choice) in [(&choices.keep, Choice::Keep), (&choices.replace, Choice::Replace)] {
            for name in names {
                decisions.objects.insert(object_name(name), choice);
                decisions.named.push(object_name(name));
            }
        }
        for name in choices.accept.iter().map(|name| name.trim().to_owned()) {
            if !decisions.is_accepted(&name) {
                decisions.newly_accepted.push(name.clone());
            }
            decisions.accepted.push(name);
        }
        decisions.uses_organizations |= ["public.organizations", "public.organization_members"]
            .iter()
            .any(|name| decisions.is_accepted(name));
        Ok(decisions)
    }

    pub(super) fn object(&self, name: &str) -> Option<Choice> {
        self.objects.get(name).copied()
    }

    pub(super) fn is_accepted(&self, name: &str) -> bool {
        self.accepted.iter().any(|accepted| accepted == name || object_name(accepted) == name)
    }
}

pub(super) async fn exists(connection: &mut PgConnection, relation: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(relation).fetch_one(connection).await
}

/// Records the decisions of the command line. If the SQL migrations were applied by an earlier run, it also
/// replaces the objects that this run names.
pub(super) async fn record(connection: &mut PgConnection, choices: &Choices) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    for name in &choices.replace {
        let name = object_name(name);
        let function = name.trim_start_matches("public.");
        sqlx::query("select warden.create_public_function($1)")
            .bind(function)
            .execute(&mut *transaction)
            .await
            .with_context(|| format!("cannot replace {name}"))?;
    }
    transaction.execute("set local role warden_owner").await?;
    let kept = choices.keep.iter().map(|name| (EXISTING, object_name(name), "keep"));
    let replaced = choices.replace.iter().map(|name| (EXISTING, object_name(name), "replace"));
    let accepted = choices.accept.iter().map(|name| (ACCEPTED, name.trim().to_owned(), "accept"));
    for (rule, object, choice) in kept.chain(replaced).chain(accepted) {
        sqlx::query(
            "insert into warden.decisions (rule, object, choice, reason, decided_by)
             values ($1, $2, $3, 'named on the command line of warden migrate', session_user)
             on conflict (rule, object) do update set choice = excluded.choice, reason = excluded.reason,
               decided_by = excluded.decided_by, decided_at = now()
               where decisions.choice <> excluded.choice",
        )
        .bind(rule)
        .bind(object)
        .bind(choice)
        .execute(&mut *transaction)
        .await?;
    }
    accept_bypasses(&mut transaction, &choices.accept).await?;
    transaction.execute("reset role").await?;
    transaction.commit().await?;
    Ok(())
}

/// Accepts the findings of later phases and of the audit about the same views, functions and rules, so that
/// the operator decides once.
async fn accept_bypasses(connection: &mut PgConnection, names: &[String]) -> Result<(), sqlx::Error> {
    if names.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into warden.decisions (rule, object, choice, reason, decided_by)
         select distinct b.rule, b.object, 'accept', 'named on the command line of warden migrate', session_user
         from warden.bypasses(array(select c.oid::regclass from pg_class c
           where c.oid in (to_regclass('public.organizations'), to_regclass('public.organization_members')))) b
         where split_part(b.object, '(', 1) = any ($1) and b.rule = any ($2)
         on conflict (rule, object) do nothing",
    )
    .bind(names)
    .bind(BYPASS)
    .execute(connection)
    .await?;
    Ok(())
}
