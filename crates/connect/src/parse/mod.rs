//! Connection strings, completed by a service file, `PG*` variables and a password file, as in libpq.
//!
//! - `uri` and `pairs` are the two forms of a string.
//! - `keywords` lists all parameters, and what Warden does with each.
//! - `parameters` holds values and their sources.
//! - `service` and `passfile` read libpq's files.
//! - `security` interprets the parameters of TLS.

mod keywords;
mod pairs;
mod parameters;
mod passfile;
#[cfg(test)]
mod reference;
mod security;
mod service;
#[cfg(test)]
mod tests;
mod uri;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::PgConnectOptions;

use self::parameters::{Parameters, Source};
use self::passfile::Login;
use crate::address::Host;
use crate::{ADDRESSES_MAX, Address, Environment};

const DEFAULT_PORT: u16 = 5432;

/// Variable that requires TLS if its value begins with 1.
const REQUIRE_TLS: &str = "PGREQUIRESSL";

/// Directories in which distributions put the server's socket.
const SOCKET_DIRS: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];

/// Parses a connection string, and completes it from the environment. The result has at least one address.
///
/// # Errors
/// If the string is invalid, or has a parameter that Warden does not support. No error repeats a value, which
/// may be a password.
pub fn parse(text: &str, environment: &Environment) -> anyhow::Result<Vec<Address>> {
    let parameters = complete(text, environment)?;
    let endpoints = endpoints(&parameters)?;
    let count = endpoints.len();
    ensure!(
        count <= ADDRESSES_MAX,
        "it has {count} addresses, but at most {ADDRESSES_MAX} are allowed: remove some"
    );
    endpoints.into_iter().map(|endpoint| address(&parameters, endpoint, environment)).collect()
}

/// All parameters, from the source with the highest priority that has them.
fn complete(text: &str, environment: &Environment) -> anyhow::Result<Parameters> {
    let mut parameters = parameters_of(text.trim())?;
    let variable = |name| environment.variable(name).filter(|value| !value.is_empty());
    if let Some(service) = parameters.get("service").map(str::to_owned).or_else(|| variable("PGSERVICE")) {
        let file = parameters.get("servicefile").map(str::to_owned).or_else(|| variable("PGSERVICEFILE"));
        parameters.fill(service::load(&service, file.as_deref(), environment)?);
    }
    for keyword in keywords::all() {
        let Some(name) = keyword.variable.filter(|_| !parameters.has(keyword.name)) else { continue };
        if let Some(value) = variable(name) {
            parameters.set(keyword, &value, Source::Variable(name))?;
        }
    }
    // Older than PGSSLMODE, and still read by libpq.
    let requires_tls = variable(REQUIRE_TLS).is_some_and(|value| value.starts_with('1'));
    if let Some(keyword) = keywords::find("sslmode").filter(|mode| requires_tls && !parameters.has(mode.name))
    {
        parameters.set(keyword, "require", Source::Variable(REQUIRE_TLS))?;
    }
    Ok(parameters)
}

/// Parameters of the string itself.
fn parameters_of(text: &str) -> anyhow::Result<Parameters> {
    if let Some(rest) = uri::after_scheme(text) {
        return uri::parse(rest);
    }
    ensure!(
        !text.is_empty(),
        "it is empty: write postgres://user:password@host:5432/database, or postgres:// to use the PG* variables alone"
    );
    ensure!(
        !has_form_of_ado_net(text),
        "it has the form of ADO.NET: write host=... port=5432 dbname=... user=... password=..., separated by spaces"
    );
    let is_other_url = text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['=', ' ']));
    if is_other_url || !text.contains('=') {
        bail!(
            "it is not a PostgreSQL URL: write postgres://user:password@host:5432/database, \
             or host=... port=5432 dbname=... user=... password=..."
        );
    }
    pairs::parse(text)
}

/// Whether the string has the form of Npgsql and other .NET drivers: `Host=h;Port=5432;Username=u`. The
/// keyword form would take all of it for the host, and show it in errors.
fn has_form_of_ado_net(text: &str) -> bool {
    let is_host = |pair: &str| {
        let name = pair.split_once('=').map(|(name, _)| name.trim().to_ascii_lowercase());
        matches!(name.as_deref(), Some("host" | "server" | "data source" | "datasource"))
    };
    let first = text.split(';').next().unwrap_or_default();
    // The keyword form has several pairs before the semicolon, unless a password begins the string.
    first.len() < text.len() && first.matches('=').count() == 1 && text.split(';').any(is_host)
}

/// Location of one server.
struct Endpoint {
    /// Host name, address, or directory of a socket.
    host: String,
    /// Address to which the host name need not be resolved.
    hostaddr: Option<String>,
    port: u16,
}

/// Pairs up the lists of hosts and ports.
fn endpoints(parameters: &Parameters) -> anyhow::Result<Vec<Endpoint>> {
    let [hosts, addresses, ports] = ["host", "hostaddr", "port"].map(|name| parameters.list(name));
    let count = hosts.len().max(addresses.len()).max(1);
    ensure!(
        hosts.is_empty() || addresses.is_empty() || hosts.len() == addresses.len(),
        "it has {} hosts and {} values of hostaddr: give one hostaddr per host",
        hosts.len(),
        addresses.len()
    );
    ensure!(
        ports.len() <= 1 || ports.len() == count,
        "it has {count} hosts and {} ports: give one port for all hosts, or one per host",
        ports.len()
    );
    let item = |list: &[String], n: usize| list.get(n).filter(|item| !item.is_empty()).cloned();
    let mut endpoints = Vec::with_capacity(count);
    for n in 0..count {
        let which = || format!("address {} of {count}", n + 1);
        let port = match item(ports, if ports.len() == 1 { 0 } else { n }) {
            Some(port) => port.parse().ok().filter(|port| *port > 0).with_context(|| {
                format!(
                    "the port of {} is not a number between 1 and 65535: correct it, and percent-encode the \
                     characters : / ? # and @ in the password of a URL",
                    which()
                )
            })?,
            None => DEFAULT_PORT,
        };
        let hostaddr = item(addresses, n);
        let is_ip = hostaddr.as_deref().is_none_or(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        ensure!(is_ip, "hostaddr of {} is not an IP address: use host for names", which());
        let host = item(hosts, n).or_else(|| hostaddr.clone());
        ensure!(host.is_some() || count == 1, "{} is empty: remove the extra comma", which());
        let host = host.unwrap_or_else(|| default_host(port));
        // Brackets belong to URLs, but users write them elsewhere, too.
        let host =
            host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).map_or(host.clone(), str::to_owned);
        endpoints.push(Endpoint { host, hostaddr, port });
    }
    Ok(endpoints)
}

/// The directory of a server's socket on this machine, or localhost.
fn default_host(port: u16) -> String {
    let has_socket = |dir: &&&str| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_DIRS.iter().find(has_socket).map_or_else(|| "localhost".to_owned(), |dir| (*dir).to_owned())
}

fn address(
    parameters: &Parameters,
    endpoint: Endpoint,
    environment: &Environment,
) -> anyhow::Result<Address> {
    let Endpoint { host, hostaddr, port } = endpoint;
    let mut options = base(parameters)?.port(port);
    if let Some(user) = parameters.get("user") {
        options = options.username(user);
    }
    let user = options.get_username().to_owned();
    let database = parameters.get("dbname").unwrap_or(&user).to_owned();
    options = options.database(&database);
    let is_socket = host.starts_with(['/', '@']);
    let password = parameters.get("password").map(str::to_owned).or_else(|| {
        let is_default_socket = SOCKET_DIRS.contains(&host.as_str());
        let host = if is_default_socket { "localhost" } else { &host };
        passfile::password(
            &passfile(parameters, environment)?,
            &Login { host, port, database: &database, user: &user },
        )
    });
    if let Some(password) = &password {
        options = options.password(password);
    }
    if is_socket {
        ensure!(
            parameters.get("channel_binding") != Some("require"),
            "channel_binding=require needs TLS, which a Unix socket does not have: use channel_binding=prefer"
        );
        return Ok(Address::at_socket(&host, options));
    }
    let security = security::security(parameters, environment)?;
    Address::at_host(Host { name: host, hostaddr, port }, options, password, security)
}

fn passfile(parameters: &Parameters, environment: &Environment) -> Option<PathBuf> {
    parameters.get("passfile").map(PathBuf::from).or_else(|| environment.in_home(".pgpass"))
}

/// Options that do not depend on the address.
fn base(parameters: &Parameters) -> anyhow::Result<PgConnectOptions> {
    // sqlx itself reads PGOPTIONS, and has no other way to set the text of `options` than a URL.
    let options =
        parameters.get("options").filter(|_| parameters.source("options") != Source::Variable("PGOPTIONS"));
    let options = match options {
        None => PgConnectOptions::new_without_pgpass(),
        Some(text) => {
            format!("postgres://localhost?password=-&options={}", utf8_percent_encode(text, NON_ALPHANUMERIC))
                .parse::<PgConnectOptions>()
                .ok()
                .context("options is invalid: remove it")?
                .password("")
        }
    };
    // Poolers reject startup parameters that they do not know, and Warden reads no floating-point numbers.
    Ok(options.application_name("warden").extra_float_digits(None))
}
