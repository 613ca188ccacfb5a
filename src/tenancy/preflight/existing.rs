//! Objects that exist, are not Warden's, and have a name that Warden uses: functions, roles, schema `warden`,
//! types and relations.

use sqlx::postgres::PgConnection;

use super::choices::object_name;
use super::decisions::{Choice, Decisions};
use super::organizations::Bypass;
use crate::postgres::SchemaSet;
use crate::tenancy::AdoptionIssue;
use crate::tenancy::sql::quoted;

/// Functions in schema `public` that have a counterpart in schema `warden`.
const FUNCTIONS: [&str; 4] =
    ["auth_org_id", "auth_user_id", "prevent_org_id_change", "custom_access_token_hook"];
const HOOK: &str = "custom_access_token_hook";
/// Tables about which a finding can be accepted.
const ACCEPTABLE_TABLES: [&str; 2] = ["public.organizations", "public.organization_members"];

/// A function of the application, or one of Warden's that another role may own.
#[derive(Debug, sqlx::FromRow)]
struct Function {
    name: String,
    signature: String,
    owner: String,
    is_own: bool,
    is_alike: bool,
    is_owned: bool,
    is_trusted: bool,
    definition: String,
    dependents: Vec<String>,
    has_former_hook: bool,
    /// The migrating role, as SQL writes it.
    role: String,
}

/// A role, relation or type that is in the way.
#[derive(Debug, sqlx::FromRow)]
struct Obstacle {
    subject: String,
    problem: String,
    remedy: String,
    accepted_as: Option<String>,
}

pub(super) async fn check(
    connection: &mut PgConnection,
    decisions: &Decisions,
    bypasses: &[Bypass],
) -> anyhow::Result<Vec<AdoptionIssue>> {
    let mut issues: Vec<AdoptionIssue> =
        functions(&mut *connection).await?.iter().filter_map(|function| function.issue(decisions)).collect();
    for name in &decisions.named {
        if !FUNCTIONS.iter().any(|function| *name == format!("public.{function}")) {
            let names = FUNCTIONS.map(|function| format!("public.{function}")).join(", ");
            issues.push(AdoptionIssue::new(
                name.clone(),
                "cannot be kept or replaced: Warden creates no object of that name",
                format!("--keep and --replace accept: {names}."),
            ));
        }
    }
    issues.extend(unknown_accepted(&mut *connection, decisions, bypasses).await?);
    for query in [
        include_str!("sql/schema_owners.sql"),
        include_str!("sql/roles.sql"),
        include_str!("sql/relations.sql"),
    ] {
        let obstacles: Vec<Obstacle> = sqlx::query_as(query).fetch_all(&mut *connection).await?;
        issues.extend(obstacles.into_iter().filter_map(|obstacle| obstacle.issue(decisions)));
    }
    Ok(issues)
}

/// Functions that fail once the listed tables have the column `org_id`.
pub(super) async fn whole_rows(
    connection: &mut PgConnection,
    tables: &[i64],
    decisions: &Decisions,
) -> anyhow::Result<Vec<AdoptionIssue>> {
    let obstacles: Vec<Obstacle> =
        sqlx::query_as(include_str!("sql/whole_rows.sql")).bind(tables).fetch_all(connection).await?;
    Ok(obstacles.into_iter().filter_map(|obstacle| obstacle.issue(decisions)).collect())
}

/// Names of `--accept` about which no check has a finding, such as a misspelled role.
async fn unknown_accepted(
    connection: &mut PgConnection,
    decisions: &Decisions,
    bypasses: &[Bypass],
) -> Result<Vec<AdoptionIssue>, sqlx::Error> {
    let is_known = |name: &str| {
        ACCEPTABLE_TABLES.contains(&object_name(name).as_str())
            || bypasses.iter().any(|bypass| bypass.object == name)
    };
    let names: Vec<&String> = decisions.newly_accepted.iter().filter(|name| !is_known(name)).collect();
    let unknown: Vec<String> = sqlx::query_scalar(
        "select name from unnest($1::text[]) name where not exists (select from pg_roles where rolname = name)
           and not exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                           where format('%I.%I', n.nspname, p.proname) = name)",
    )
    .bind(names)
    .fetch_all(connection)
    .await?;
    let tables = ACCEPTABLE_TABLES.join(", ");
    Ok(unknown
        .into_iter()
        .map(|name| {
            AdoptionIssue::new(
                format!("--accept {name}"),
                "is neither a role of this server nor a function, nor a table of organisations, nor writes one",
                format!("--accept takes a name that a finding printed: a role, a view, a function, or one of {tables}."),
            )
        })
        .collect())
}

/// Remarks about functions that the application keeps.
pub(super) async fn notes(connection: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let hook: Option<(bool, Option<String>)> = sqlx::query_as(
        "select warden.callee($1) = 'warden.' || $1, warden.application_token_hook()::text
         where exists (select from pg_roles where rolname = 'supabase_auth_admin')
            or warden.callee($1) = 'warden.' || $1 or warden.application_token_hook() is not null",
    )
    .bind(HOOK)
    .fetch_optional(connection)
    .await?;
    Ok(match hook {
        Some((true, _)) => vec![
            "the application keeps public.custom_access_token_hook: configure warden.custom_access_token_hook in \
             Supabase Auth. It calls the application's hook first, then sets org_id"
                .to_owned(),
        ],
        Some((false, Some(former))) => {
            vec![format!("public.custom_access_token_hook calls {former} first, then sets org_id")]
        }
        _ => Vec::new(),
    })
}

/// Remarks about tables whose watch a restore without data has lost: the calls that watch them again.
pub(in crate::tenancy) async fn lost_watches(
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select format('%s has log triggers and is not watched, as after a restore without data. %s', l.relation,
                  case when l.call is not null then format('To watch it again: %s To remove them: %s',
                                                           l.call, replace(l.removal, E'\\n', ' '))
                       else 'To remove them: ' || replace(l.removal, E'\\n', ' ') end)
         from warden.lost_watches() l order by l.relation::text",
    )
    .fetch_all(connection)
    .await
}

async fn functions(connection: &mut PgConnection) -> Result<Vec<Function>, sqlx::Error> {
    sqlx::query_as(include_str!("sql/functions.sql")).fetch_all(connection).await
}

impl Function {
    fn issue(&self, decisions: &Decisions) -> Option<AdoptionIssue> {
        let subject = format!("function {}", self.signature);
        if self.is_own {
            return (!self.is_owned).then(|| self.owned_by_another(subject));
        }
        match decisions.object(&format!("public.{}", self.name)) {
            None => Some(AdoptionIssue::new(subject, self.question(), self.alternatives())),
            Some(Choice::Keep) if self.name == HOOK && !self.is_trusted => {
                Some(self.owned_by_another(subject))
            }
            Some(Choice::Keep) => None,
            Some(Choice::Replace) => self.irreplaceable(subject),
        }
    }

    /// Both definitions.
    fn question(&self) -> String {
        let own = definition(&self.name);
        format!(
            "exists, and Warden did not create it\n\
             the application's:\n{}\nWarden's:\n{}",
            indented(&self.definition),
            indented(&own)
        )
    }

    fn alternatives(&self) -> String {
        let name = format!("public.{}", self.name);
        let (keep, replace) = if self.name == HOOK {
            (
                "it stays; warden.custom_access_token_hook calls it first, then sets org_id: configure that one in \
                 Supabase Auth",
                "it is renamed to custom_access_token_hook_before_warden; Warden's hook calls it first, then sets \
                 org_id",
            )
        } else {
            (
                "it stays the application's; Warden uses its own in schema warden",
                "Warden's takes its place; the former definition is stored in warden.replaced_objects",
            )
        };
        format!(
            "Choose: warden migrate --keep {name}      ({keep})\nor:     warden migrate --replace {name}   ({replace})"
        )
    }

    fn owned_by_another(&self, subject: String) -> AdoptionIssue {
        AdoptionIssue::new(
            subject,
            format!("belongs to {}: that role could change what the database isolates", self.owner),
            format!("As a superuser: alter routine {} owner to {};", self.signature, self.role),
        )
    }

    /// Why it cannot be replaced.
    fn irreplaceable(&self, subject: String) -> Option<AdoptionIssue> {
        if !self.is_owned {
            return Some(self.owned_by_another(subject));
        }
        if self.name == HOOK && self.is_alike {
            return self.has_former_hook.then(|| {
                AdoptionIssue::new(
                    subject,
                    "cannot be renamed: custom_access_token_hook_before_warden(jsonb) exists",
                    "alter function public.custom_access_token_hook_before_warden(jsonb) rename to older_custom_access_token_hook;",
                )
            });
        }
        (!self.is_alike && !self.dependents.is_empty()).then(|| {
            AdoptionIssue::new(
                subject,
                format!(
                    "cannot be replaced: it differs in its result or arguments, so it must be dropped, and these \
                     objects depend on it: {}",
                    self.dependents.join(", ")
                ),
                format!(
                    "Change these objects first, or keep it: warden migrate --keep public.{}",
                    self.name
                ),
            )
        })
    }
}

impl Obstacle {
    fn issue(self, decisions: &Decisions) -> Option<AdoptionIssue> {
        let Some(name) = &self.accepted_as else {
            return Some(AdoptionIssue::new(self.subject, self.problem, self.remedy));
        };
        let remedy = format!("{}\nIf it is on purpose: warden migrate --accept {name}", self.remedy);
        (!decisions.is_accepted(name)).then(|| AdoptionIssue::new(self.subject, self.problem, remedy))
    }
}

/// Warden's definition of a function, from the migrations.
fn definition(name: &str) -> String {
    let heads = [format!("create or replace function warden.{name}("), format!("('{name}', ")];
    for migration in SchemaSet::Core.migrator().iter() {
        let sql = migration.sql.as_str();
        if let Some(found) = sql.find(&heads[0]) {
            let text = &sql[found..];
            return text[..text.find("\n$$;").map_or(text.len(), |end| end + 3)].to_owned();
        }
        // These two are composed of one text.
        if sql.contains(&heads[1])
            && let Some(found) = sql.find("      create or replace function warden.%I()")
        {
            let text = &sql[found..];
            let text = &text[..text.find("$fn$").unwrap_or(text.len())];
            let claim = if name == "auth_org_id" { "'{app_metadata,org_id}'" } else { "'{sub}'" };
            return text.replacen("%I", name, 1).replacen("%s", "", 1).replacen("%L", claim, 1);
        }
    }
    quoted(name)
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_come_from_the_migrations() {
        for name in FUNCTIONS {
            let text = definition(name);
            assert!(text.contains(&format!("function warden.{name}(")), "{name}: {text}");
            assert!(text.lines().count() > 5 && !text.contains("%I"), "{name}: {text}");
        }
        assert!(definition("auth_org_id").contains("app_metadata,org_id"));
    }

    /// Functions of versions before the comment are known by their text, before `warden.is_own()` exists.
    #[test]
    fn former_functions_are_the_same_as_in_the_migrations() {
        let hashes = |text: &str| -> Vec<String> {
            let words =
                text.split('\'').filter(|w| w.len() == 32 && w.chars().all(|c| c.is_ascii_hexdigit()));
            words.map(str::to_owned).collect()
        };
        let migration = SchemaSet::Core.migrator().iter().find(|m| m.version == 5).expect("exists");
        let own = hashes(include_str!("sql/functions.sql"));
        assert_eq!(own.len(), 8);
        assert_eq!(own, hashes(migration.sql.as_str()));
    }
}
