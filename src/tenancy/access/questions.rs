//! Questions that block the enforce phase: policies and views of the application that Warden must neither
//! change nor ignore.

use sqlx::postgres::PgConnection;

use super::conditions;
use crate::tenancy::AdoptionIssue;
use crate::tenancy::plan::TablePlan;
use crate::tenancy::registry::Scope;
use crate::tenancy::sql::literal;

/// Maximum number of roles that an issue names.
const ROLES_MAX: usize = 3;

/// A view, function or rule that reads or writes the tables without row-level security.
#[derive(sqlx::FromRow)]
struct Bypass {
    rule: String,
    object: String,
    kind: String,
    owner: String,
    readers: Vec<String>,
    /// None: the function runs statements that it builds.
    tables: Option<String>,
    /// Statements that take the rights away from all readers.
    revoke: Option<String>,
    /// Objects that use it on behalf of requests, without their naming it.
    used_by: Option<String>,
    /// Whether a policy uses it.
    is_policy: bool,
    /// Whether the migrating role may not act as the owner.
    is_foreign: bool,
    /// Whether it runs a statement into which its caller may write another one.
    runs_any_statement: bool,
}

/// The open questions about the tables that are not enforced yet: about their policies, and about everything
/// through which requests reach their rows. Organisations and memberships are asked about again, because what
/// was created since may make its caller a member of any organisation. Accepted findings are left out.
pub(in crate::tenancy) async fn questions(
    connection: &mut PgConnection,
    tables: &[TablePlan],
) -> Result<Vec<AdoptionIssue>, sqlx::Error> {
    let oid = |t: &TablePlan| t.table.oid;
    let unenforced: Vec<i64> = tables.iter().filter(|t| !t.is_enforced()).map(oid).collect();
    let decides = |t: &TablePlan| {
        t.table.scope == Scope::Root || t.table.schema == "public" && t.table.name == "organization_members"
    };
    let all: Vec<i64> = tables.iter().filter(|t| !t.is_enforced() || decides(t)).map(oid).collect();
    let of_tables: Vec<(String, String, String)> = sqlx::query_as(
        "select m.oid::regclass::text, q.problem, q.remedy
         from unnest($1::bigint[]) t (oid) cross join lateral warden.tree(t.oid::oid::regclass) m (oid)
         join pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
         cross join lateral warden.access_questions(m.oid) q",
    )
    .bind(&unenforced)
    .fetch_all(&mut *connection)
    .await?;
    let mut issues: Vec<AdoptionIssue> = of_tables
        .into_iter()
        .map(|(table, problem, remedy)| AdoptionIssue::new(table, problem, remedy))
        .collect();
    let bypasses: Vec<Bypass> = sqlx::query_as(
        "select b.*, not pg_has_role(b.owner::regrole, 'usage') as is_foreign,
           exists (select from pg_proc p join pg_language l on l.oid = p.prolang
                   where p.oid = case b.kind when 'f' then to_regprocedure(b.object) end
                     and warden.runs_any_statement(l.lanname, lower(p.prosrc))) as runs_any_statement
         from (
           select * from warden.bypasses(array(select t::oid::regclass from unnest($1::bigint[]) t))
           union all
           select 'claim-setter', c.object, c.kind, c.owner, c.readers, null, c.revoke, c.used_by, false
           from warden.claim_setters() c where $1::bigint[] <> '{}') b
         where not exists (select from warden.decisions d
                           where d.rule = b.rule and d.object = b.object and d.choice = 'accept')",
    )
    .bind(all)
    .fetch_all(&mut *connection)
    .await?;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&mut *connection)
        .await?;
    issues.extend(bypasses.iter().map(|b| b.issue(version)));
    issues.extend(conditions::question(connection, &unenforced).await?);
    Ok(issues)
}

impl Bypass {
    fn issue(&self, version: i32) -> AdoptionIssue {
        let Self { object, owner, .. } = self;
        let mut readers = self.readers.iter().take(ROLES_MAX).cloned().collect::<Vec<_>>().join(", ");
        if self.readers.len() > ROLES_MAX {
            readers += &format!(" and {} more", self.readers.len() - ROLES_MAX);
        }
        let tables = self.tables.as_deref().unwrap_or_default();
        let does = self
            .tables
            .as_ref()
            .map_or_else(|| "runs statements that it builds".into(), |tables| format!("reaches {tables}"));
        let problem = match self.kind.as_str() {
            "v" => format!(
                "this view would show {readers} rows of every organisation: it reads {tables} as its owner {owner}, who \
                 is exempt from row-level security"
            ),
            "m" => format!(
                "this materialized view shows {readers} rows of every organisation: it holds a copy of {tables}, and no \
                 policy applies to it"
            ),
            "t" => format!(
                "this trigger function {does} as {owner}, who is exempt from row-level security, when {readers} write to \
                 its table"
            ),
            "r" => format!(
                "this rule reaches {tables} as {owner}, who is exempt from row-level security, when {readers} write to a \
                 table that is not registered"
            ),
            "s" => format!(
                "{readers} may call this function, which sets the claims or the role of the transaction: a caller may act \
                 as another organisation"
            ),
            "b" => format!(
                "{readers} may call this function, which runs statements that it builds: a caller may write into them one \
                 that sets the claims of another organisation"
            ),
            "g" => format!(
                "this trigger function sets the claims or the role of the transaction when {readers} write to its table"
            ),
            "o" => format!(
                "this function will fail: it {does} with row_security = off, and its owner {owner} is subject to \
                 policies"
            ),
            "i" => format!(
                "this function will fail for {readers}: it {does} with row_security = off, and they are subject to policies"
            ),
            _ => format!(
                "{readers} may call this function, which {does} and runs as {owner}, who is exempt from row-level security"
            ),
        };
        let remedy = match &self.used_by {
            Some(used_by) if self.is_policy => format!(
                "{used_by} uses it, so it must keep its rights, and requests the right to use it. If its statements do not \
                 name the organisation or the user of the claims, add that condition. Then:\n{}",
                self.choices(version)
            ),
            Some(used_by) => format!("{used_by} uses it. One of these:\n{}", self.choices(version)),
            None => format!("One of these:\n{}", self.choices(version)),
        };
        AdoptionIssue::new(object.clone(), problem, remedy)
    }

    /// Statements of which each ends the issue.
    fn choices(&self, version: i32) -> String {
        let Self { rule, object, owner, .. } = self;
        let mut choices = Vec::new();
        match self.kind.as_str() {
            // With the rights of its caller, it would be subject to the policy that uses it.
            _ if self.is_policy => {}
            "v" => {
                if version >= 150_000 {
                    choices.push(format!(
                        "alter view {object} set (security_invoker = true);  -- its readers need rights on the tables"
                    ));
                }
                choices.push("-- or make a role without BYPASSRLS its owner".into());
            }
            "f" | "t" => {
                // With the rights of its callers, it would still let them act as another organisation.
                if !self.runs_any_statement {
                    choices.push(format!(
                        "alter routine {object} security invoker;  -- its callers need rights on the tables"
                    ));
                }
                choices.push("-- or make a role without BYPASSRLS its owner".into());
            }
            "s" | "g" => choices.push("-- or take what sets claims or roles out of the function".into()),
            "b" => choices.push(
                "-- or build the statements by format() with %I and %L only, and pass values by USING".into(),
            ),
            _ => {}
        }
        choices.extend(self.revoke.clone());
        let is_failing = matches!(self.kind.as_str(), "o" | "i");
        if self.kind == "o" {
            choices.push("-- or make a role with BYPASSRLS its owner, which is a question of its own".into());
        }
        if !is_failing {
            choices.push(format!(
                "select warden.accept_finding({}, {}, '<why this is on purpose>');",
                literal(rule),
                literal(object)
            ));
        }
        if self.is_foreign {
            let except = if is_failing { "" } else { ", except the last one" };
            choices.insert(0, format!("-- as {owner}{except}:"));
        }
        choices.join("\n")
    }
}
