//! libpq's connection URIs: `postgres://user:password@host1:5432,host2/database?parameter=value`.

use std::fmt;

use anyhow::{Context as _, bail, ensure};

use super::keywords;
use super::parameters::{Parameters, Source, named};

/// Schemes of a connection URI.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

const FORM: &str = "write postgres://user:password@host:5432/database, and percent-encode the characters \
                    : / ? # @ & and % of user and password";

/// The part of a URI after its scheme; `None` if it has another scheme.
pub(super) fn after_scheme(text: &str) -> Option<&str> {
    SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme))
}

/// Parses a URI without its scheme.
pub(super) fn parse(rest: &str) -> anyhow::Result<Parameters> {
    let mut parameters = Parameters::default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // A password with an unencoded / would be cut there, and its beginning be shown as host or port.
    ensure!(authority.contains('@') || !database.contains('@'), "it has an @ behind a /: {FORM}");
    // libpq ends the user at the first @. A password with an unencoded @ has no other meaning, though.
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut set = |name: &str, value: &str, part: Part| {
        let keyword = keywords::find(name).context("a parameter of libpq")?;
        if value.is_empty() {
            Ok(())
        } else {
            parameters.set_items(keyword, vec![decode(value, part)?], Source::Text)
        }
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    set("user", user, Part::User)?;
    set("password", password, Part::Password)?;
    set("dbname", database, Part::Database)?;
    parse_hosts(&mut parameters, hosts)?;
    for (n, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        parse_parameter(&mut parameters, pair, n + 1)?;
    }
    Ok(parameters)
}

/// Part of a URI, for errors.
#[derive(Clone, Copy)]
enum Part {
    User,
    Password,
    Host(usize, usize),
    Database,
    Parameter(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => write!(f, "the user"),
            Self::Password => write!(f, "the password"),
            Self::Host(n, count) => write!(f, "address {n} of {count}"),
            Self::Database => write!(f, "the database name"),
            Self::Parameter(n) => write!(f, "parameter {n}"),
        }
    }
}

/// Parses `host:port,host:port`.
fn parse_hosts(parameters: &mut Parameters, text: &str) -> anyhow::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let items: Vec<&str> = text.split(',').collect();
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for (n, item) in items.iter().enumerate() {
        let part = Part::Host(n + 1, items.len());
        let (host, port) = split_port(item).with_context(|| format!("{part} is invalid: {FORM}"))?;
        hosts.push(decode(host, part)?);
        ports.push(decode(port, part)?);
    }
    let keyword = |name| keywords::find(name).context("a parameter of libpq");
    if items.len() > 1 || !hosts[0].is_empty() {
        parameters.set_items(keyword("host")?, hosts, Source::Text)?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        parameters.set_items(keyword("port")?, ports, Source::Text)?;
    }
    Ok(())
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn split_port(item: &str) -> Option<(&str, &str)> {
    let (host, rest) = match item.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => item.split_at(item.find(':').unwrap_or(item.len())),
    };
    let port = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    Some((host, port))
}

/// Parses `parameter=value`. Commas within an encoded host belong to the host.
fn parse_parameter(parameters: &mut Parameters, pair: &str, position: usize) -> anyhow::Result<()> {
    let part = Part::Parameter(position);
    let (name, value) =
        pair.split_once('=').with_context(|| format!("{part} has no value: write parameter=value"))?;
    let name = decode(name, part)?;
    // JDBC's way to require TLS, which libpq accepts in URIs.
    if name == "ssl" {
        let (keyword, mode) =
            (named("sslmode", position)?, if value == "true" { "require" } else { "disable" });
        ensure!(["true", "false"].contains(&value), "ssl must be true or false: use sslmode instead");
        return parameters.set_items(keyword, vec![mode.to_owned()], Source::Text);
    }
    let keyword = named(&name, position)?;
    if ["host", "hostaddr", "port"].contains(&keyword.name) {
        let items =
            value.split(',').map(|item| decode(item, part)).collect::<anyhow::Result<Vec<String>>>()?;
        return parameters.set_items(keyword, items, Source::Text);
    }
    parameters.set_items(keyword, vec![decode(value, part)?], Source::Text)
}

/// Decodes `%XX`. As in libpq, `+` is no space.
fn decode(text: &str, part: Part) -> anyhow::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            bail!(
                "{part} contains a % that two hexadecimal digits must follow: write %25 for the character %"
            );
        };
        let byte = u8::try_from(high * 16 + low).unwrap_or_default();
        ensure!(byte != 0, "{part} contains %00, which PostgreSQL does not allow");
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().with_context(|| format!("{part} is not valid UTF-8 when it is decoded"))
}
