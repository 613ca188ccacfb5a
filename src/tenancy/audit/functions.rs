//! Rules about Warden's functions. Their expected text is parsed from the migrations, so it is not written
//! twice.
//!
//! Functions that a migration creates with a plain CREATE FUNCTION are compared word by word. Functions that
//! it composes for the database at hand are checked by their marks, and by their results (see `claims`).

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;

use super::report::Finding;
use crate::postgres::SchemaSet;

pub(super) const RULES: &[&str] = &[
    "function",
    "function-search-path",
    "function-marks",
    "function-owner",
    "function-callers",
    "token-hook-caller",
];

/// A function as this version of Warden creates it.
#[derive(Debug, Clone, Serialize)]
struct Expected {
    schema: String,
    name: String,
    /// Text of the function; none if it is composed.
    body: Option<String>,
    volatility: &'static str,
    parallel: &'static str,
    is_definer: bool,
    has_search_path: bool,
    /// Names of its settings.
    settings: Vec<String>,
    is_strict: bool,
    /// Statements that recreate it.
    creation: Option<String>,
}

/// Composed functions: schema, name, parallel mark, and whether they are SECURITY DEFINER.
const COMPOSED: &[(&str, &str, &str, bool)] = &[
    ("public", "auth_org_id", "s", false),
    ("public", "auth_user_id", "s", false),
    ("warden", "auth_org_id", "s", false),
    ("warden", "auth_user_id", "s", false),
    ("warden", "default_org_for", "u", true),
];

/// Functions of schema `warden` with a copy in schema `public`, unless the application has a function of that
/// name.
const COPIED: &[&str] = &["prevent_org_id_change", "custom_access_token_hook"];

pub(super) async fn check(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let rows: Vec<super::FindingRow> = sqlx::query_as(include_str!("sql/functions.sql"))
        .bind(Json(expected(migrations())))
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(Finding::from).collect())
}

/// The texts of the core's migrations. The platform's migrations define no functions.
fn migrations() -> impl Iterator<Item = &'static str> {
    SchemaSet::Core.migrator().iter().map(|migration| migration.sql.as_str())
}

/// Every function that the migrations create; if several replace one another, the last.
fn expected<'m>(migrations: impl Iterator<Item = &'m str>) -> Vec<Expected> {
    let mut functions = BTreeMap::new();
    let mut grants: Vec<&str> = Vec::new();
    for migration in migrations {
        for statement in statements(migration) {
            if let Some(function) = parse(statement) {
                functions.insert((function.schema.clone(), function.name.clone()), function);
            } else if is_grant(statement) {
                grants.push(statement);
            }
        }
    }
    let mut functions: Vec<Expected> = functions.into_values().collect();
    for function in &mut functions {
        function.creation =
            function.creation.take().map(|creation| with_grants(function, &creation, &grants));
    }
    let copies = functions.iter().filter(|f| COPIED.contains(&f.name.as_str())).map(|f| Expected {
        schema: "public".to_owned(),
        creation: Some(format!("select warden.create_public_function('{}');", f.name)),
        ..f.clone()
    });
    functions.extend(copies.collect::<Vec<_>>());
    functions.extend(COMPOSED.iter().map(|(schema, name, parallel, is_definer)| Expected {
        schema: (*schema).to_owned(),
        name: (*name).to_owned(),
        body: None,
        volatility: "s",
        parallel,
        is_definer: *is_definer,
        has_search_path: true,
        settings: vec!["search_path".to_owned(), "row_security".to_owned()],
        is_strict: false,
        creation: None,
    }));
    functions
}

fn is_grant(statement: &str) -> bool {
    statement.starts_with("grant execute on function ")
        || statement.starts_with("revoke execute on function ")
}

/// All statements that recreate a function: with its owner, and its grants.
fn with_grants(function: &Expected, creation: &str, grants: &[&str]) -> String {
    let full_name = format!("{}.{}", function.schema, function.name);
    let mut text = format!("{creation};\n");
    if function.schema == "warden" {
        text = format!("{text}revoke execute on function {full_name} from public;\n");
    }
    for statement in grants.iter().filter(|statement| statement.contains(&format!("{full_name}("))) {
        text += &format!("{statement};\n");
    }
    if function.schema == "warden" { format!("set role warden_owner;\n{text}reset role;") } else { text }
}

/// Parses a plain CREATE FUNCTION.
fn parse(statement: &str) -> Option<Expected> {
    let rest = statement
        .strip_prefix("create or replace function ")
        .or_else(|| statement.strip_prefix("create function "))?;
    let (schema, name) = rest[..rest.find('(')?].split_once('.')?;
    let opening = rest.find('$')?;
    let tag = &rest[opening..=opening + 1 + rest[opening + 1..].find('$')?];
    let body = &rest[opening + tag.len()..];
    let body = &body[..body.find(tag)?];
    let header = &rest[..opening];
    let marks = &header[header.rfind("language ")?..];
    let has = |mark: &str| marks.contains(mark);
    Some(Expected {
        schema: schema.to_owned(),
        name: name.to_owned(),
        body: Some(body.to_owned()),
        volatility: if has("immutable") {
            "i"
        } else if has("stable") {
            "s"
        } else {
            "v"
        },
        parallel: if has("parallel safe") { "s" } else { "u" },
        is_definer: has("security definer"),
        has_search_path: has("set search_path = pg_catalog, pg_temp"),
        settings: settings(marks),
        is_strict: has("strict"),
        creation: Some(format!("create or replace function {rest}")),
    })
}

/// Names of the settings in the marks of a function, in lower case.
fn settings(marks: &str) -> Vec<String> {
    let words = marks.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty());
    let pairs = words.clone().zip(words.skip(1));
    pairs.filter(|(word, _)| *word == "set").map(|(_, name)| name.trim_matches('"').to_lowercase()).collect()
}

/// Splits a migration into statements, without the comments before each and the semicolon after it.
fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = 0;
    let mut at = 0;
    while at < sql.len() {
        let rest = &sql[at..];
        at += if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with('\'') || rest.starts_with('"') {
            quoted_length(rest, &rest[..1])
        } else if let Some(tag) = dollar_tag(rest) {
            quoted_length(rest, tag)
        } else if rest.starts_with(';') {
            found.push(without_comments(&sql[begin..at]));
            begin = at + 1;
            1
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
    }
    found
}

/// Length of a quoted string at the start of the text, with its quotes. A doubled quote ends one string and
/// begins the next, which gives the same end.
fn quoted_length(text: &str, quote: &str) -> usize {
    text[quote.len()..].find(quote).map_or(text.len(), |end| end + 2 * quote.len())
}

/// `$$` or `$name$`, if the text starts with it.
fn dollar_tag(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    name[end..].starts_with('$').then(|| &text[..end + 2])
}

fn without_comments(statement: &str) -> &str {
    let mut rest = statement.trim();
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_parsed_from_migrations() {
        let sql = "-- It's a comment; with a semicolon.\ncreate function warden.f(a text default ';') returns text\n\
                   language sql stable security definer set search_path = pg_catalog, pg_temp as $body$ select '$$;' $body$;\n\
                   do $$ begin execute format($f$create function warden.g() returns int as 'x'$f$); end $$;\n\
                   create table t (c text);\n\
                   grant execute on function warden.f(text), warden.h() to somebody;\n\
                   create or replace function public.p() returns trigger language plpgsql as $$ begin null; end $$;";
        let functions = expected([sql].into_iter());
        let names: Vec<&str> = functions.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(
            names,
            ["p", "f", "auth_org_id", "auth_user_id", "auth_org_id", "auth_user_id", "default_org_for"]
        );
        let f = &functions[1];
        assert_eq!(f.body.as_deref(), Some(" select '$$;' "));
        assert_eq!((f.volatility, f.parallel, f.is_definer, f.has_search_path), ("s", "u", true, true));
        assert_eq!((f.settings.as_slice(), f.is_strict), (&["search_path".to_owned()][..], false));
        let creation = f.creation.as_deref().unwrap_or_default();
        assert!(
            creation.starts_with("set role warden_owner;\ncreate or replace function warden.f("),
            "{creation}"
        );
        assert!(
            creation.contains(
                "from public;\ngrant execute on function warden.f(text), warden.h() to somebody;\n"
            )
        );
        let p = &functions[0];
        assert_eq!((p.volatility, p.is_definer, p.has_search_path), ("v", false, false));
    }

    /// A parser that loses its position would find fewer functions than a search for their first lines.
    #[test]
    fn every_function_of_the_migrations_is_parsed() {
        let functions = expected(migrations());
        let platform = SchemaSet::Platform.migrator().iter().map(|migration| migration.sql.as_str());
        assert_eq!(expected(platform).len(), COMPOSED.len(), "the platform's migrations define functions");
        let plain = migrations()
            .flat_map(str::lines)
            .filter(|line| {
                line.starts_with("create function ") || line.starts_with("create or replace function ")
            })
            .count();
        assert_eq!(functions.len(), plain + COPIED.len() + COMPOSED.len());
        assert!(plain > 20, "{plain}");
    }
}
