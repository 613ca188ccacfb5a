//! Parses `DATABASE_URL`: one address, or several in libpq's form.
//!
//! It opens no connection. No error repeats any part of the URL, because a mistyped URL may contain the
//! password in any place.

use std::fmt;
use std::str::FromStr as _;

use anyhow::{Context as _, bail, ensure};
use sqlx::postgres::PgConnectOptions;

/// Most addresses in one URL. The gateway connects to all of them at once whenever it looks for the primary.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// Addresses at which the primary may be.
#[derive(Clone)]
pub struct Addresses(pub(super) Vec<Address>);

/// One address.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) options: PgConnectOptions,
    /// Name in messages: host and port, or the directory of a socket.
    pub(super) name: String,
}

/// Shows the names alone, because the options contain the password.
impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|address| &address.name)).finish()
    }
}

/// Parses a database URL, such as `postgres://user:password@host:5432/database`. Several addresses are given
/// in libpq's form, `host1:5432,host2:5433` or `?host=host1,host2&port=5432,5433`.
///
/// # Errors
/// If the URL is invalid. The message does not repeat the URL, which may contain a password.
pub fn options(url: &str) -> anyhow::Result<Addresses> {
    let parts = Parts::split(url)?;
    let urls = parts.urls()?;
    let count = urls.len();
    ensure!(
        count <= ADDRESSES_MAX,
        "DATABASE_URL has {count} addresses, but at most {ADDRESSES_MAX} are allowed: remove some"
    );
    let mut addresses = Vec::with_capacity(count);
    for (n, url) in urls.iter().enumerate() {
        let options = PgConnectOptions::from_str(url).with_context(|| {
            let which = if count == 1 { String::new() } else { format!("address {} of {count}: ", n + 1) };
            format!(
                "DATABASE_URL is not a PostgreSQL URL: {which}write postgres://user:password@host:5432/database, \
                 or several addresses as host1:5432,host2:5432"
            )
        })?;
        // Poolers reject startup parameters that they do not know, and Warden reads no floating-point
        // numbers.
        let options = options.application_name("warden").extra_float_digits(None);
        let name = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        addresses.push(Address { options, name });
    }
    Ok(Addresses(addresses))
}

/// Parts of a URL, still encoded.
struct Parts<'a> {
    scheme: &'a str,
    /// User and password with the `@` after them.
    user: &'a str,
    hosts: &'a str,
    /// Path with its leading slash.
    path: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Parts<'a> {
    fn split(url: &'a str) -> anyhow::Result<Self> {
        let Some((scheme, rest)) =
            url.split_once("://").filter(|(s, _)| matches!(*s, "postgres" | "postgresql"))
        else {
            bail!("DATABASE_URL is not a PostgreSQL URL: write postgres://user:password@host:5432/database");
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let params: Vec<_> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        Ok(Self { scheme, user, hosts, path, params })
    }

    /// One URL per address.
    fn urls(&self) -> anyhow::Result<Vec<String>> {
        let mut rest = Vec::new();
        let (mut hosts, mut ports) = (None, None);
        for &(key, value) in &self.params {
            match key {
                "host" | "hostaddr" => hosts = Some(value),
                "port" => ports = Some(value),
                "target_session_attrs" => ensure!(
                    matches!(value, "read-write" | "primary"),
                    "DATABASE_URL: target_session_attrs must be read-write or primary, because the event log is \
                     read from the primary only"
                ),
                _ => rest.push((key, value)),
            }
        }
        let with = |hosts: &str, host: Option<&str>, port: Option<&str>| {
            let own = host.map(|host| ("host", host)).into_iter().chain(port.map(|port| ("port", port)));
            let query: Vec<String> = own
                .chain(rest.iter().copied())
                .map(|(key, value)| if value.is_empty() { key.to_owned() } else { format!("{key}={value}") })
                .collect();
            let mark = if query.is_empty() { "" } else { "?" };
            format!("{}://{}{hosts}{}{mark}{}", self.scheme, self.user, self.path, query.join("&"))
        };
        let list = |text: &'a str| -> anyhow::Result<Vec<&'a str>> {
            let items: Vec<&str> = text.split(',').collect();
            match items.iter().position(|item| item.is_empty()) {
                // A single empty host means the default host.
                Some(n) if items.len() > 1 => {
                    bail!(
                        "DATABASE_URL: address {} of {} is empty: remove the extra comma",
                        n + 1,
                        items.len()
                    )
                }
                _ => Ok(items),
            }
        };
        let Some(hosts) = hosts else {
            return Ok(list(self.hosts)?.into_iter().map(|host| with(host, None, ports)).collect());
        };
        // As in libpq, hosts among the parameters replace those in the authority.
        let hosts = list(hosts)?;
        let ports = ports.map(list).transpose()?.unwrap_or_default();
        ensure!(
            ports.len() <= 1 || ports.len() == hosts.len(),
            "DATABASE_URL has {} hosts and {} ports: give one port for all hosts, or one per host",
            hosts.len(),
            ports.len()
        );
        let port_of = |n: usize| ports.get(n).or(ports.first()).copied();
        Ok(hosts.into_iter().enumerate().map(|(n, host)| with("", Some(host), port_of(n))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(url: &str) -> Vec<String> {
        options(url).expect(url).0.into_iter().map(|address| address.name).collect()
    }

    #[test]
    fn address_lists_are_parsed_like_libpq() {
        assert_eq!(names("postgres://u:p@h1:5433/db"), ["h1:5433"]);
        assert_eq!(names("postgres://u:p@h1:5433,h2,[::1]:5434/db"), ["h1:5433", "h2:5432", "[::1]:5434"]);
        assert_eq!(
            names("postgresql://u:a,b@h1,h2/db?target_session_attrs=read-write"),
            ["h1:5432", "h2:5432"]
        );
        assert_eq!(names("postgres:///db?host=h1,/run/pg&port=5433,5434&user=u"), ["h1:5433", "/run/pg"]);
        assert_eq!(
            names("postgres:///db?host=h1,h2&port=5433&target_session_attrs=primary"),
            ["h1:5433", "h2:5433"]
        );
        let all = options("postgres://u:p%40@h1,h2:5433/my%20db?application_name=x").expect("a list").0;
        for address in all {
            assert_eq!(address.options.get_username(), "u");
            assert_eq!(address.options.get_database(), Some("my db"));
            assert_eq!(address.options.get_application_name(), Some("warden"));
        }
    }

    #[test]
    fn an_encoded_comma_belongs_to_the_path() {
        let all =
            options("postgres:///db?host=/tmp/a%2Cb,/tmp/c&port=5432&sslmode=disable").expect("a list").0;
        let sockets: Vec<_> = all.iter().map(|a| a.options.get_socket().expect("a socket").clone()).collect();
        assert_eq!(sockets, ["/tmp/a,b", "/tmp/c"].map(std::path::PathBuf::from));
    }

    #[test]
    fn invalid_urls_are_rejected_without_repeating_them() {
        for (url, expected) in [
            ("mysql://u:s3cret@h/db", "not a PostgreSQL URL"),
            ("h1,h2", "not a PostgreSQL URL"),
            ("postgres://u:s3cret@h1,,h2/db", "address 2 of 3 is empty"),
            ("postgres://u:s3cret@h1,h2,/db", "address 3 of 3 is empty"),
            ("postgres://u:s3cret@h1,h2:s3cret/db", "address 2 of 2"),
            ("postgres://u:s3cret@h1:99999/db", "not a PostgreSQL URL"),
            ("postgres://u:s3c/ret@h1,h2/db", "not a PostgreSQL URL"),
            ("postgres:///db?host=h1,h2&port=1,2,3&password=s3cret", "2 hosts and 3 ports"),
            ("postgres:///db?host=h1,h2&port=1,&password=s3cret", "address 2 of 2 is empty"),
            ("postgres://u:s3cret@h/db?target_session_attrs=any", "must be read-write or primary"),
            (&format!("postgres://u:s3cret@{}h/db", "h,".repeat(16)), "17 addresses, but at most 16"),
        ] {
            let error = format!("{:#}", options(url).expect_err(url));
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("s3c") && !error.contains("ret@"), "{url}: {error}");
        }
        let shown = format!("{:?}", options("postgres://u:s3cret@h1,h2/db").expect("a list"));
        assert_eq!(shown, r#"["h1:5432", "h2:5432"]"#);
    }
}
