//! Questions that block the enforce phase: policies and views of the application that Warden must neither
//! change nor ignore.

use sqlx::postgres::PgConnection;

use crate::tenancy::AdoptionIssue;
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
    /// Whether the migrating role may not act as the owner.
    is_foreign: bool,
}

/// The open questions about these tables. Accepted findings are left out.
pub(in crate::tenancy) async fn questions(
    connection: &mut PgConnection,
    tables: &[i64],
) -> Result<Vec<AdoptionIssue>, sqlx::Error> {
    let of_tables: Vec<(String, String, String)> = sqlx::query_as(
        "select m.oid::regclass::text, q.problem, q.remedy
         from unnest($1::bigint[]) t (oid) cross join lateral warden.tree(t.oid::oid::regclass) m (oid)
         join pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
         cross join lateral warden.access_questions(m.oid) q",
    )
    .bind(tables)
    .fetch_all(&mut *connection)
    .await?;
    let mut issues: Vec<AdoptionIssue> = of_tables
        .into_iter()
        .map(|(table, problem, remedy)| AdoptionIssue::new(table, problem, remedy))
        .collect();
    let bypasses: Vec<Bypass> = sqlx::query_as(
        "select b.*, not pg_has_role(b.owner::regrole, 'usage') as is_foreign
         from warden.bypasses(array(select t::oid::regclass from unnest($1::bigint[]) t)) b
         where not exists (select from warden.decisions d
                           where d.rule = b.rule and d.object = b.object and d.choice = 'accept')",
    )
    .bind(tables)
    .fetch_all(&mut *connection)
    .await?;
    let version: i32 =
        sqlx::query_scalar("select current_setting('server_version_num')::int").fetch_one(connection).await?;
    issues.extend(bypasses.iter().map(|b| b.issue(version)));
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
            _ => format!(
                "{readers} may call this function, which {does} and runs as {owner}, who is exempt from row-level security"
            ),
        };
        AdoptionIssue::new(object.clone(), problem, format!("One of these:\n{}", self.choices(version)))
    }

    /// Statements of which each ends the issue.
    fn choices(&self, version: i32) -> String {
        let Self { rule, object, owner, .. } = self;
        let mut choices = Vec::new();
        match self.kind.as_str() {
            "v" => {
                if version >= 150_000 {
                    choices.push(format!(
                        "alter view {object} set (security_invoker = true);  -- its readers need rights on the tables"
                    ));
                }
                choices.push("-- or make a role without BYPASSRLS its owner".into());
            }
            "f" | "t" => {
                choices.push(format!(
                    "alter routine {object} security invoker;  -- its callers need rights on the tables"
                ));
                choices.push("-- or make a role without BYPASSRLS its owner".into());
            }
            _ => {}
        }
        choices.extend(self.revoke.clone());
        choices.push(format!(
            "select warden.accept_finding({}, {}, '<why this is on purpose>');",
            literal(rule),
            literal(object)
        ));
        if self.is_foreign {
            choices.insert(0, format!("-- as {owner}, except the last one:"));
        }
        choices.join("\n")
    }
}
