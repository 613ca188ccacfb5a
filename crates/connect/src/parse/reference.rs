//! Tests of every row of docs/connection-parameters.md, in each form of a connection string, and of the
//! strings that providers show.

use super::tests::{Home, at, login, nowhere};
use super::*;

const PAGE: &str = include_str!("../../../../docs/connection-parameters.md");

/// A value that no parameter accepts, and that no error may show.
const INVALID: &str = "s3cret";

/// A parameter of the page.
struct Row {
    name: &'static str,
    variable: Option<&'static str>,
    effect: &'static str,
}

/// Rows of the tables: the parameter, its variable, and what Warden does.
fn rows() -> Vec<Row> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let code = |cell: &'static str| cell.trim_matches('`');
    PAGE.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = cells(line);
            let [name, variable, effect] = cells.as_slice() else { panic!("not three columns: {line}") };
            let variable = Some(code(variable)).filter(|variable| !variable.is_empty());
            Row { name: code(name), variable, effect }
        })
        .collect()
}

/// Values that follow `only`.
fn only(effect: &'static str) -> Option<Vec<&'static str>> {
    let values = effect.strip_prefix("only ")?.split(':').next()?;
    Some(values.split(", ").map(|value| value.trim_matches('`')).collect())
}

#[test]
fn the_page_lists_exactly_the_parameters() {
    let listed: Vec<_> = rows().iter().map(|row| (row.name, row.variable)).collect();
    for keyword in keywords::all() {
        assert!(listed.contains(&(keyword.name, keyword.variable)), "{} is not listed", keyword.name);
    }
    for (name, variable) in &listed {
        let keyword = keywords::find(name).unwrap_or_else(|| panic!("{name} is listed"));
        assert_eq!((keyword.name, keyword.variable), (*name, *variable));
        assert_eq!(listed.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
    }
    assert_eq!(listed.len(), keywords::all().count());
}

/// The result of a parameter in one form of a connection string: everything that a connection depends on.
fn outcome(text: &str, environment: &Environment) -> Result<String, String> {
    let error = |error: anyhow::Error| format!("{error:#}");
    let addresses = parse(text, environment).map_err(error)?;
    let parameters = complete(text, environment).map_err(error)?;
    let security = security::security(&parameters, environment).map_err(error)?;
    let target = addresses.iter().map(|address| format!("{address:?}")).collect::<Vec<_>>();
    let hostaddr = parameters.get("hostaddr");
    let options = addresses[0].options();
    let login = (options.get_username(), options.get_database(), options.get_options());
    Ok(format!("{target:?} {hostaddr:?} {login:?} {:?} {security:?}", super::tests::password(&addresses[0])))
}

/// Host beside a parameter, unless the parameter leads to a host itself. Without a host, a socket of this
/// machine may be the default.
fn host(name: &str) -> &'static str {
    if ["host", "hostaddr", "service"].contains(&name) { "" } else { "h" }
}

/// Outcomes of a parameter in a URL, among keywords, and as a variable.
fn outcomes(row: &Row, value: &str, home: &Home) -> Vec<Result<String, String>> {
    let (name, encoded) = (row.name, utf8_percent_encode(value, NON_ALPHANUMERIC));
    let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
    let host = host(name);
    let mut outcomes = vec![
        outcome(&format!("postgres://{host}?{name}={encoded}"), &at(&home.0, &[])),
        outcome(
            &format!("{}{name}='{quoted}'", if host.is_empty() { "" } else { "host=h " }),
            &at(&home.0, &[]),
        ),
    ];
    if let Some(variable) = row.variable {
        outcomes.push(outcome(&format!("postgres://{host}"), &at(&home.0, &[(variable, value)])));
    }
    outcomes
}

/// A value with an effect, for each parameter that is used.
fn example(name: &str, home: &Home) -> String {
    let value = match name {
        "host" => "a,[::1]",
        "hostaddr" => "10.0.0.1",
        "port" => "5433",
        "dbname" | "user" | "password" => "a b&c='\\d",
        "passfile" | "servicefile" | "sslrootcert" => return home.path("file"),
        "service" => "app",
        "options" => "-c geqo=off",
        "sslmode" => "verify-full",
        "sslcert" | "sslkey" => return home.path(".postgresql/other"),
        "sslcertmode" => "disable",
        "sslsni" => "0",
        "sslnegotiation" => "postgres",
        "channel_binding" => "require",
        "ssl_min_protocol_version" => "TLSv1.3",
        "ssl_max_protocol_version" => "TLSv1.2",
        other => panic!("{other} is used: add an example"),
    };
    value.to_owned()
}

#[test]
fn every_parameter_does_in_every_form_what_the_page_says() {
    let home = Home::with(&[
        ("file", "*:*:*:*:of the file\n"),
        (".pg_service.conf", "[app]\nhost=service\n"),
        (".postgresql/postgresql.crt", ""),
        (".postgresql/postgresql.key", ""),
    ]);
    for row in rows() {
        let Row { name, effect, .. } = row;
        let default = outcome(&format!("postgres://{}", host(name)), &at(&home.0, &[])).expect("valid");
        for outcome in outcomes(&row, "", &home) {
            assert_eq!(outcome.as_ref(), Ok(&default), "{name} is empty");
        }
        let (valid, differs): (Vec<String>, bool) = match effect.split([':', ' ', ';']).next() {
            Some("used") => (vec![example(name, &home)], !["servicefile", "sslnegotiation"].contains(&name)),
            Some("no") => (vec![INVALID.to_owned()], false),
            Some("only") => (only(effect).expect("values").into_iter().map(str::to_owned).collect(), false),
            Some("rejected") => (Vec::new(), false),
            other => panic!("{name}: {other:?}"),
        };
        for value in &valid {
            // libpq reads PGOPTIONS into the parameter; sqlx reads the variable of the process.
            for outcome in outcomes(&row, value, &home).iter().take(if name == "options" { 2 } else { 3 }) {
                let outcome = outcome.as_ref().unwrap_or_else(|error| panic!("{name}={value}: {error}"));
                assert_eq!(*outcome != default, differs, "{name}={value}: {outcome}");
            }
        }
        if effect.starts_with("only") || effect.starts_with("rejected") {
            for error in outcomes(&row, INVALID, &home) {
                let error = error.expect_err(name);
                assert!(error.starts_with(name) && error.contains(": "), "{name}: {error}");
                assert!(!error.contains(INVALID), "{name}: {error}");
            }
        }
    }
}

#[test]
fn tls_can_be_required_by_the_old_variable() {
    let mode = |text: &str, value: &str| {
        let environment = Environment::new(&[("PGREQUIRESSL", value)], None);
        let parameters = complete(text, &environment).expect("valid");
        security::security(&parameters, &environment).expect("valid").mode
    };
    assert_eq!(mode("postgres://h", "1"), crate::tls::SslMode::Require);
    assert_eq!(mode("postgres://h", "0"), crate::tls::SslMode::Prefer);
    assert_eq!(mode("postgres://h?sslmode=disable", "1"), crate::tls::SslMode::Disable);
}

/// Strings of providers, with their user, password, database and address.
#[rustfmt::skip]
const PROVIDERS: &[(&str, &str, [&str; 4])] = &[
    ("Supabase",
     "postgresql://postgres:pw@db.abcdefgh.supabase.co:5432/postgres",
     ["postgres", "pw", "postgres", "db.abcdefgh.supabase.co:5432"]),
    ("Supabase, before the password is filled in",
     "postgresql://postgres:[YOUR-PASSWORD]@db.abcdefgh.supabase.co:5432/postgres",
     ["postgres", "[YOUR-PASSWORD]", "postgres", "db.abcdefgh.supabase.co:5432"]),
    ("Supabase, pooler in session mode",
     "postgres://postgres.abcdefgh:pw@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
     ["postgres.abcdefgh", "pw", "postgres", "aws-0-eu-central-1.pooler.supabase.com:5432"]),
    ("Supabase, pooler in transaction mode",
     "postgres://postgres.abcdefgh:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1",
     ["postgres.abcdefgh", "pw", "postgres", "aws-0-eu-central-1.pooler.supabase.com:6543"]),
    ("Supabase on Vercel",
     "postgres://postgres.abcdefgh:pw@aws-0-us-east-1.pooler.supabase.com:6543/postgres?sslmode=require&supa=base-pooler.x",
     ["postgres.abcdefgh", "pw", "postgres", "aws-0-us-east-1.pooler.supabase.com:6543"]),
    ("Neon",
     "postgresql://alex:AbC_123@ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
     ["alex", "AbC_123", "neondb", "ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech:5432"]),
    ("Neon without SNI",
     "postgresql://alex:pw@ep-cool.aws.neon.tech/neondb?options=endpoint%3Dep-cool&sslmode=require",
     ["alex", "pw", "neondb", "ep-cool.aws.neon.tech:5432"]),
    ("RDS",
     "postgres://ann:pw@my.c1.us-east-1.rds.amazonaws.com:5432/app?sslmode=verify-full&sslrootcert=global-bundle.pem",
     ["ann", "pw", "app", "my.c1.us-east-1.rds.amazonaws.com:5432"]),
    ("RDS, from the console",
     "host=my.c1.us-east-1.rds.amazonaws.com port=5432 dbname=app user=ann sslmode=require password='p w'",
     ["ann", "p w", "app", "my.c1.us-east-1.rds.amazonaws.com:5432"]),
    ("Cloud SQL, socket",
     "postgresql:///app?host=/cloudsql/project:region:instance&user=ann&password=pw",
     ["ann", "pw", "app", "/cloudsql/project:region:instance/.s.PGSQL.5432"]),
    ("Cloud SQL, socket as the host",
     "postgres://ann:pw@%2Fcloudsql%2Fproject%3Aregion%3Ainstance/app",
     ["ann", "pw", "app", "/cloudsql/project:region:instance/.s.PGSQL.5432"]),
    ("Cloud SQL, socket in keywords",
     "host=/cloudsql/project:region:instance user=ann password=pw dbname=app sslmode=disable",
     ["ann", "pw", "app", "/cloudsql/project:region:instance/.s.PGSQL.5432"]),
    ("Azure",
     "host=my.postgres.database.azure.com port=5432 dbname=postgres user=ann password={your_password} sslmode=require",
     ["ann", "{your_password}", "postgres", "my.postgres.database.azure.com:5432"]),
    ("Azure, single server",
     "postgres://ann%40my:pw@my.postgres.database.azure.com/postgres?sslmode=require",
     ["ann@my", "pw", "postgres", "my.postgres.database.azure.com:5432"]),
    ("Heroku",
     "postgres://u1a2b:p0@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1e2f",
     ["u1a2b", "p0", "d1e2f", "ec2-1-2-3-4.compute-1.amazonaws.com:5432"]),
    ("Fly",
     "postgres://app:pw@top2.nearest.of.app-db.internal:5432/app?sslmode=disable",
     ["app", "pw", "app", "top2.nearest.of.app-db.internal:5432"]),
    ("Fly, IPv6",
     "postgres://app:pw@[fdaa:0:1::2]:5433/app",
     ["app", "pw", "app", "[fdaa:0:1::2]:5433"]),
    ("DigitalOcean",
     "postgresql://doadmin:pw@db-nyc1-1-do-user-1-0.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
     ["doadmin", "pw", "defaultdb", "db-nyc1-1-do-user-1-0.b.db.ondigitalocean.com:25060"]),
    ("Aiven",
     "postgres://avnadmin:AVNS_pw@pg-1.aivencloud.com:12345/defaultdb?sslmode=require",
     ["avnadmin", "AVNS_pw", "defaultdb", "pg-1.aivencloud.com:12345"]),
    ("a cluster in the options",
     "postgresql://ann:pw@free.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full&options=--cluster%3Dgood-dog-123",
     ["ann", "pw", "defaultdb", "free.cockroachlabs.cloud:26257"]),
    ("Render",
     "postgresql://ann:pw@dpg-1-a.oregon-postgres.render.com/app",
     ["ann", "pw", "app", "dpg-1-a.oregon-postgres.render.com:5432"]),
    ("Prisma",
     "postgresql://ann:pw@localhost:5432/app?schema=public&pool_timeout=10&sslmode=prefer",
     ["ann", "pw", "app", "localhost:5432"]),
];

#[test]
fn strings_of_providers_are_parsed_as_they_come() {
    for (provider, text, expected) in PROVIDERS {
        assert_eq!(login(text, &nowhere()), *expected, "{provider}");
    }
}
