//! Access of each role to each table, today and once the tables are enforced. Tables with equal rows are
//! printed together, and so are roles. Members of a table (partitions, inheritance children) are printed only
//! for roles whose access to them differs from that to the whole, because grants on the whole do not apply to
//! a statement that names a member, and the other way round.

use std::collections::BTreeMap;
use std::fmt;

use sqlx::postgres::PgConnection;

/// Maximum number of table names that a heading shows.
const TABLES_MAX: usize = 6;
/// Maximum number of role names that a line shows.
const ROLES_MAX: usize = 6;

/// Access before and after the enforce phase, table by table and role by role.
#[derive(Debug, Clone, Default)]
pub struct AccessOverview {
    /// For each table, the lines with their roles. The key is the whole, and the member if it is one.
    tables: BTreeMap<(String, Option<String>), Lines>,
}

/// Access of roles: each line with the roles that have it.
type Lines = BTreeMap<String, Vec<String>>;

#[derive(sqlx::FromRow)]
struct AccessRow {
    whole_name: String,
    is_member: bool,
    table_name: String,
    role_name: String,
    command: String,
    bypasses: bool,
    before: String,
    sees_rows_after: bool,
    loses: Vec<String>,
}

impl AccessOverview {
    pub(in crate::tenancy) async fn read(
        connection: &mut PgConnection,
        tables: &[i64],
    ) -> Result<Self, sqlx::Error> {
        let rows: Vec<AccessRow> =
            sqlx::query_as(include_str!("sql/roles.sql")).bind(tables).fetch_all(connection).await?;
        let mut overview = Self::default();
        for of_role in rows.chunk_by(|a, b| a.table_name == b.table_name && a.role_name == b.role_name) {
            overview.add(&of_role[0], line(of_role));
        }
        Ok(overview)
    }

    /// Adds the access of one role, unless it has the same access to the whole. The whole comes first.
    fn add(&mut self, row: &AccessRow, line: String) {
        let (whole, role) = (row.whole_name.clone(), row.role_name.clone());
        if row.is_member
            && let Some(lines) = self.tables.get(&(whole.clone(), None))
            && lines.get(&line).is_some_and(|roles| roles.contains(&role))
        {
            return;
        }
        let member = row.is_member.then(|| row.table_name.clone());
        self.tables.entry((whole, member)).or_default().entry(line).or_default().push(role);
    }

    /// Removes the tables, with their members, for which `is_kept` is false.
    pub(in crate::tenancy) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.tables.retain(|(whole, _), _| is_kept(whole));
    }
}

/// Access of one role to one table. Commands with the same rows are named together.
fn line(of_role: &[AccessRow]) -> String {
    let mut groups: Vec<(Vec<&str>, &AccessRow)> = Vec::new();
    for row in of_role {
        let same = groups
            .iter_mut()
            .find(|(_, first)| first.before == row.before && first.sees_rows_after == row.sees_rows_after);
        match same {
            Some((commands, _)) => commands.push(&row.command),
            None => groups.push((vec![&row.command], row)),
        }
    }
    let mut parts: Vec<String> = groups
        .into_iter()
        .map(|(commands, row)| format!("{}: {} -> {}", commands.join(", "), row.before, after(row)))
        .collect();
    let loses: Vec<&str> = of_role.iter().flat_map(|row| row.loses.iter().map(String::as_str)).collect();
    if !loses.is_empty() {
        parts.push(format!("loses {}, which no policy limits", loses.join(", ")));
    }
    parts.join("; ")
}

fn after(row: &AccessRow) -> &'static str {
    if row.bypasses {
        return "all rows (bypasses row-level security)";
    }
    match (row.sees_rows_after, row.before.as_str()) {
        (false, _) => "no rows",
        (true, "all rows" | "no rows") => "rows of the organisation",
        (true, _) => "the same, within the organisation",
    }
}

fn joined(names: &[String], max: usize) -> String {
    let shown = names.iter().take(max).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > max { format!("{shown} and {} more", names.len() - max) } else { shown }
}

impl fmt::Display for AccessOverview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tables.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "What each role may do today -> once the tables are enforced. \"The organisation\" is that of the claims:\n\
             without claims there are no rows. Superusers bypass row-level security."
        )?;
        let mut groups: BTreeMap<&Lines, Vec<String>> = BTreeMap::new();
        for ((whole, member), lines) in &self.tables {
            groups.entry(lines).or_default().push(member.as_ref().unwrap_or(whole).clone());
        }
        for (lines, names) in groups {
            writeln!(f, "{}", joined(&names, TABLES_MAX))?;
            for (line, roles) in lines {
                writeln!(f, "  {}  {line}", joined(roles, ROLES_MAX))?;
            }
        }
        Ok(())
    }
}
