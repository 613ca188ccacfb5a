//! Connection strings of every form, and what fills their gaps.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sqlx::ConnectOptions as _;

use super::*;

/// A directory that is removed when the test ends.
pub(super) struct Home(pub(super) PathBuf);

impl Home {
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("warden-connect-{}", fastrand::u64(..)));
        let this = Self(dir);
        std::fs::create_dir_all(this.0.join(".postgresql")).expect("creates");
        for (name, text) in files {
            let file = this.0.join(name);
            std::fs::write(&file, text).expect("writes");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("sets");
        }
        this
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A leftover in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn at(home: &Path, variables: &[(&str, &str)]) -> Environment {
    Environment::new(variables, Some(home.to_owned()))
}

pub(super) fn nowhere() -> Environment {
    Environment::new(&[], None)
}

fn names(text: &str) -> Vec<String> {
    let addresses = parse(text, &nowhere()).unwrap_or_else(|error| panic!("{text}: {error:#}"));
    addresses.iter().map(|address| address.name().to_owned()).collect()
}

pub(super) fn password(address: &Address) -> Option<String> {
    let url = address.options().to_url_lossy();
    let password = url.password()?;
    Some(percent_encoding::percent_decode_str(password).decode_utf8().expect("UTF-8").into_owned())
}

/// User, password, database and name of the only address.
pub(super) fn login(text: &str, environment: &Environment) -> [String; 4] {
    let addresses = parse(text, environment).unwrap_or_else(|error| panic!("{text}: {error:#}"));
    let [address] = addresses.as_slice() else { panic!("{text}: {addresses:?}") };
    let options = address.options();
    let database = options.get_database().unwrap_or_default().to_owned();
    [
        options.get_username().to_owned(),
        password(address).unwrap_or_default(),
        database,
        address.name().to_owned(),
    ]
}

#[test]
fn address_lists_are_parsed_like_libpq() {
    for (text, expected) in [
        ("postgres://u:p@h1:5433/db", vec!["h1:5433"]),
        ("postgres://u:p@h1:5433,h2,[::1]:5434/db", vec!["h1:5433", "h2:5432", "[::1]:5434"]),
        ("postgresql://u:a,b@h1,h2/db?target_session_attrs=read-write", vec!["h1:5432", "h2:5432"]),
        ("postgres:///db?host=h1,/run/pg&port=5433,5434&user=u", vec!["h1:5433", "/run/pg/.s.PGSQL.5434"]),
        ("postgres:///db?host=h1,h2&port=5433&target_session_attrs=primary", vec!["h1:5433", "h2:5433"]),
        ("postgres://u:p@/app?host=/socket/dir", vec!["/socket/dir/.s.PGSQL.5432"]),
        ("postgres://u:p@:5433/app?host=db", vec!["db:5433"]),
        ("postgres://%2Frun%2Fpg/app", vec!["/run/pg/.s.PGSQL.5432"]),
        ("postgres:///db?host=/tmp/a%2Cb,/tmp/c", vec!["/tmp/a,b/.s.PGSQL.5432", "/tmp/c/.s.PGSQL.5432"]),
        ("postgres://u@db.example?hostaddr=10.0.0.1", vec!["db.example:5432"]),
        ("postgres://u@ignored/app?host=h", vec!["h:5432"]),
        ("host=h1,h2 port=5433,5434 dbname=app", vec!["h1:5433", "h2:5434"]),
        ("host='h1, h2' port=5433", vec!["h1:5433", "h2:5433"]),
        ("hostaddr=::1 user=u", vec!["[::1]:5432"]),
    ] {
        assert_eq!(names(text), expected, "{text}");
    }
}

#[test]
fn each_form_gives_the_same_login() {
    let expected = ["an na", "p@:/?#'\\ %", "my db", "h:5433"].map(str::to_owned);
    for text in [
        "postgres://an%20na:p%40%3A%2F%3F%23%27%5C%20%25@h:5433/my%20db",
        "postgresql://h:5433/ignored?user=an%20na&password=p%40%3A%2F%3F%23%27%5C%20%25&dbname=my%20db",
        r"host=h port=5433 user='an na' password='p@:/?#\'\\ %' dbname = 'my db'",
        r"user=an\ na password=p@:/?#\'\\\ % dbname=my\ db host=h port=5433 ",
    ] {
        assert_eq!(login(text, &nowhere()), expected, "{text}");
    }
    // A plus is no space, an unencoded @ belongs to the password, and the last value counts.
    assert_eq!(login("postgres://a+b:p@ss@h/d+b?user=c", &nowhere()), ["c", "p@ss", "d+b", "h:5432"]);
    assert_eq!(login("host=a host=b user=u dbname=d", &nowhere()), ["u", "", "d", "b:5432"]);
}

#[test]
fn variables_and_services_fill_gaps() {
    let home = Home::with(&[
        (
            ".pg_service.conf",
            "# mine\n[other]\nhost=no\n[app]\nhost=service\nport = 6000\npassword=from service\n[x]\n",
        ),
        ("other.conf", "[app]\nhost=elsewhere\nuser=u\n"),
    ]);
    let variables =
        [("PGUSER", "variable"), ("PGHOST", "variable"), ("PGPASSWORD", "secret"), ("PGDATABASE", "d")];
    let environment = at(&home.0, &variables);
    assert_eq!(login("postgres://", &environment), ["variable", "secret", "d", "variable:5432"]);
    assert_eq!(login("postgres://u@h/", &environment), ["u", "secret", "d", "h:5432"]);
    assert_eq!(login("service=app", &environment), ["variable", "from service", "d", "service:6000"]);
    assert_eq!(login("postgres://u@h?service=app", &environment), ["u", "from service", "d", "h:6000"]);
    let other = home.path("other.conf");
    let environment = at(&home.0, &[("PGSERVICE", "app"), ("PGSERVICEFILE", &other)]);
    assert_eq!(login("dbname=d", &environment), ["u", "", "d", "elsewhere:5432"]);
    let error = format!("{:#}", parse("service=nobody", &at(&home.0, &[])).expect_err("no such service"));
    assert!(
        error.contains("no service file has a section") && error.contains("~/.pg_service.conf"),
        "{error}"
    );
}

#[test]
fn passwords_come_from_a_file_that_only_its_owner_may_read() {
    let home = Home::with(&[
        (".pgpass", "h:5432:app:u:of the file\nlocalhost:5432:*:u:of the socket\n*:5432:*:v:of v\n"),
        ("other", "*:*:*:*:of the other file\n"),
    ]);
    let environment = at(&home.0, &[]);
    assert_eq!(login("postgres://u@h/app", &environment)[1], "of the file");
    assert_eq!(login("postgres://u@/app?host=/tmp", &environment)[1], "of the socket");
    assert_eq!(login("postgres://v@any/", &environment)[1], "of v");
    assert_eq!(login("postgres://u:given@h/app", &environment)[1], "given");
    assert_eq!(login("postgres://u@h:1/app", &environment)[1], "");
    let other = home.path("other");
    assert_eq!(login("postgres://u@h/app", &at(&home.0, &[("PGPASSFILE", &other)]))[1], "of the other file");
    std::fs::set_permissions(home.path(".pgpass"), std::fs::Permissions::from_mode(0o640)).expect("sets");
    assert_eq!(login("postgres://u@h/app", &environment)[1], "");
}

#[test]
fn options_reach_the_server_as_they_are() {
    for text in ["postgres://u@h/app?options=endpoint%3Dep-1", "host=h options='endpoint=ep-1' user=u"] {
        let addresses = parse(text, &nowhere()).expect("an address");
        assert_eq!(addresses[0].options().get_options(), Some("endpoint=ep-1"));
        assert_eq!(addresses[0].options().get_application_name(), Some("warden"));
    }
}

#[test]
fn invalid_strings_are_rejected_without_repeating_them() {
    let many = format!("postgres://u:s3cret@{}h/db", "h,".repeat(16));
    for (text, expected) in [
        ("", "it is empty"),
        ("mysql://u:s3cret@h/db", "not a PostgreSQL URL"),
        ("jdbc:postgresql://h/db?password=s3cret", "not a PostgreSQL URL"),
        ("h1,h2", "not a PostgreSQL URL"),
        ("postgres://u:s3cret@h1,,h2/db", "address 2 of 3 is empty"),
        ("postgres://u:s3cret@h1,h2,/db", "address 3 of 3 is empty"),
        ("postgres://u:s3cret@h1,h2:s3cret/db", "the port of address 2 of 2"),
        ("postgres://u:s3cret@h1:99999/db", "the port of address 1 of 1"),
        ("postgres://u:s3cret@h1:0/db", "the port of address 1 of 1"),
        ("postgres://u:s3c/ret@h1,h2/db", "percent-encode"),
        ("postgres://u:s3c?ret@h1/db", "parameter 1 has no value"),
        // The beginning of the password would be the port, and be shown in the address.
        ("postgres://u:5432/s3cret@h/db", "an @ behind a /"),
        ("postgres://u:s3cret%@h/db", "the password contains a %"),
        ("postgres://u:s3cret%ff@h/db", "the password is not valid UTF-8"),
        ("postgres://u:s3cret%00@h/db", "the password contains %00"),
        ("postgres://u:s3cret@[::1/db", "address 1 of 1 is invalid"),
        ("postgres:///db?host=h1,h2&port=1,2,3&password=s3cret", "2 hosts and 3 ports"),
        ("postgres://h1,h2/db?hostaddr=10.0.0.1&password=s3cret", "2 hosts and 1 values of hostaddr"),
        ("postgres:///db?hostaddr=s3cret", "hostaddr of address 1 of 1 is not an IP address"),
        ("postgres://u:p@h/db?password=a&s3cret=b", "parameter 2 has a name that libpq does not know"),
        ("postgres://u:s3cret@h/db?sslmod=require", "parameter 1 has a name"),
        ("postgres://u:s3cret@h/db?sslmode=s3cret", "sslmode must be disable, allow"),
        ("postgres://u:s3cret@h/db?target_session_attrs=standby", "must be any, read-write or primary"),
        ("Server=h;Database=d;User Id=u;Password=s3cret;Ssl Mode=Require;", "the form of ADO.NET"),
        ("Host=h;Port=5432;Username=u;Password=s3cret;Database=d", "the form of ADO.NET"),
        ("Username=u;Password=s3cret;Data Source=h;", "the form of ADO.NET"),
        ("host = h ; Password=s3cret=;", "the form of ADO.NET"),
        ("postgresql+psycopg2://u:s3cret@h/db", "not a PostgreSQL URL"),
        ("postgres://u:s3cret@h/db?sslaccept=strict", "use sslmode=verify-full"),
        ("postgres://u:s3cret@h/db?sslmode=no-verify", "sslmode must be disable, allow"),
        ("postgres://u:s3cret@h/db?channel_binding=s3cret", "must be disable, prefer or require"),
        ("postgres://u:s3cret@h/db?channel_binding=require&sslmode=disable", "needs TLS: remove sslmode"),
        ("postgres://u:s3cret@/db?channel_binding=require&host=/tmp", "a Unix socket does not have"),
        ("postgres://u:s3cret@h/db?gssencmode=require", "gssencmode: encryption by GSSAPI is not supported"),
        ("postgres://u:s3cret@h/db?sslcrl=s3cret", "sslcrl is not supported"),
        ("postgres://u:s3cret@h/db?sslpassword=s3cret", "sslpassword is not supported: encrypted keys"),
        ("postgres://u:s3cret@h/db?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("postgres://u:s3cret@h/db?sslnegotiation=direct", "needs sslmode=require"),
        ("postgres://u:s3cret@h/db?sslcert=s3cret", "set sslkey"),
        ("host=h password='s3cret", "parameter 2 has an opening quote"),
        ("host=h password=s3 cret", "parameter 3 has no value"),
        ("host=h password=s3 cr=et", "parameter 3 has a name"),
        ("service=s3cret", "no service file has a section"),
        ("service=app servicefile=s3cret", "cannot read the service file"),
        (many.as_str(), "17 addresses, but at most 16"),
    ] {
        let error = format!("{:#}", parse(text, &nowhere()).expect_err(text));
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("s3c") && !error.contains("ret@"), "{text}: {error}");
    }
    let error =
        parse("postgres://h/db", &Environment::new(&[("PGSSLCRL", "x")], None)).expect_err("unsupported");
    assert!(error.to_string().starts_with("sslcrl (in PGSSLCRL) is not supported"), "{error}");
    let shown = format!("{:?}", parse("postgres://u:s3cret@h1,h2/db", &nowhere()).expect("a list"));
    assert_eq!(shown, "[h1:5432, h2:5432]");
}

#[test]
fn parameters_of_other_drivers_have_no_effect() {
    assert_eq!(
        names("postgres://u@h/db?schema=public&pgbouncer=true&connection_limit=1&connect_timeout=10"),
        ["h:5432"]
    );
}

/// Values that a user may have, with every character that one of the forms treats specially.
fn value() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        '\'', '\\', ' ', '=', '%', '@', ':', '/', '?', '#', '&', ',', '+', '\t', 'é',
    ]);
    prop::collection::vec(prop_oneof![special, prop::char::range('a', 'z')], 1..12)
        .prop_map(String::from_iter)
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn escape(value: &str) -> String {
    value.chars().flat_map(|c| if c.is_ascii_alphanumeric() { vec![c] } else { vec!['\\', c] }).collect()
}

proptest! {
    #[test]
    fn values_survive_both_forms(user in value(), password in value(), database in value(), gap in "[ \t]{1,3}", quoted: bool) {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let write = if quoted { quote } else { escape };
        let uri = format!("postgres://{}:{}@h/{}", encode(&user), encode(&password), encode(&database));
        let pairs = format!(
            "host=h{gap}user={gap}{}{gap}password{gap}={}{gap}dbname={}",
            write(&user), write(&password), write(&database)
        );
        for text in [uri, pairs] {
            let parameters = parameters_of(&text).expect("valid");
            let read = ["host", "user", "password", "dbname"].map(|name| parameters.get(name).unwrap_or_default().to_owned());
            prop_assert_eq!(&read, &["h".to_owned(), user.clone(), password.clone(), database.clone()], "{}", text);
        }
    }

    #[test]
    fn no_error_shows_a_password(before in "[a-z0-9:/@?&=%'\\\\ ,#\\[\\]]{0,12}", after in "[a-z0-9:/@?&=%'\\\\ ,#\\[\\]]{0,12}", form in 0..3) {
        let start = ["postgres://u:", "host=h password=", "postgres://h/d?password="][usize::try_from(form).expect("small")];
        let text = format!("{start}{before}hUnTeR2{after}");
        if let Err(error) = parse(&text, &nowhere()) {
            prop_assert!(!format!("{error:#}").contains("hUnTeR2"), "{}: {:#}", text, error);
        }
    }
}
