//! libpq's connection parameters, and what Warden does with each.

/// Effect of a parameter.
#[derive(Clone, Copy)]
pub(super) enum Support {
    /// The value is used.
    Used,
    /// It is accepted and has no effect.
    Ignored,
    /// Only these values are accepted, without effect. The string is the next step for any other value.
    Only(&'static [&'static str], &'static str),
    /// It is rejected. The string is the next step.
    Rejected(&'static str),
}

/// One connection parameter.
pub(super) struct Keyword {
    pub(super) name: &'static str,
    /// Environment variable that sets it.
    pub(super) variable: Option<&'static str>,
    pub(super) support: Support,
}

use Support::{Ignored, Only, Rejected, Used};

const fn keyword(name: &'static str, variable: &'static str, support: Support) -> Keyword {
    let variable = if variable.is_empty() { None } else { Some(variable) };
    Keyword { name, variable, support }
}

const REMOVE: &str = "remove it";

/// All parameters that libpq 18 knows, and some of other drivers. docs/connection-parameters.md lists them.
#[rustfmt::skip]
static KEYWORDS: &[Keyword] = &[
    keyword("host", "PGHOST", Used),
    keyword("hostaddr", "PGHOSTADDR", Used),
    keyword("port", "PGPORT", Used),
    keyword("dbname", "PGDATABASE", Used),
    keyword("user", "PGUSER", Used),
    keyword("password", "PGPASSWORD", Used),
    keyword("passfile", "PGPASSFILE", Used),
    keyword("service", "PGSERVICE", Used),
    keyword("servicefile", "PGSERVICEFILE", Used),
    keyword("options", "PGOPTIONS", Used),
    keyword("sslmode", "PGSSLMODE", Used),
    keyword("sslrootcert", "PGSSLROOTCERT", Used),
    keyword("sslcert", "PGSSLCERT", Used),
    keyword("sslkey", "PGSSLKEY", Used),
    keyword("sslcertmode", "PGSSLCERTMODE", Used),
    keyword("sslsni", "PGSSLSNI", Used),
    keyword("sslnegotiation", "PGSSLNEGOTIATION", Used),
    keyword("channel_binding", "PGCHANNELBINDING", Used),
    keyword("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    keyword("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Used),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS", Only(
        &["any", "read-write", "primary"],
        "it must be any, read-write or primary, because the event log is read from the primary only")),
    // Warden sets its own name, encoding, time limits and keepalives, and connects to all addresses at once.
    keyword("application_name", "PGAPPNAME", Ignored),
    keyword("fallback_application_name", "", Ignored),
    keyword("client_encoding", "PGCLIENTENCODING", Ignored),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT", Ignored),
    keyword("load_balance_hosts", "PGLOADBALANCEHOSTS", Ignored),
    keyword("keepalives", "", Ignored),
    keyword("keepalives_idle", "", Ignored),
    keyword("keepalives_interval", "", Ignored),
    keyword("keepalives_count", "", Ignored),
    keyword("tcp_user_timeout", "", Ignored),
    // Of no use without GSSAPI, or to TLS 1.3.
    keyword("sslcompression", "PGSSLCOMPRESSION", Ignored),
    keyword("krbsrvname", "PGKRBSRVNAME", Ignored),
    keyword("gsslib", "PGGSSLIB", Ignored),
    keyword("gssdelegation", "PGGSSDELEGATION", Ignored),
    keyword("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"],
        "encryption by GSSAPI is not supported: remove it, and use TLS (sslmode=verify-full)")),
    keyword("replication", "", Only(&["false", "off", "no", "0"],
        "Warden does not use the replication protocol: remove it")),
    keyword("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"],
        "Warden uses version 3.0 of the protocol: remove it")),
    keyword("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    keyword("sslpassword", "", Rejected(
        "encrypted keys are not supported: decrypt the key (openssl pkey), and restrict the file to its owner")),
    keyword("sslcrl", "PGSSLCRL", Rejected(
        "certificate revocation lists are not supported: remove it, and revoke by replacing the file of sslrootcert")),
    keyword("sslcrldir", "PGSSLCRLDIR", Rejected(
        "certificate revocation lists are not supported: remove it, and revoke by replacing the file of sslrootcert")),
    keyword("requirepeer", "PGREQUIREPEER", Rejected(
        "the owner of a server's socket is not checked: remove it, and use a socket in a directory of the server's own")),
    keyword("require_auth", "PGREQUIREAUTH", Rejected(
        "a client cannot choose the method of authentication: remove it, and set the method in the server's pg_hba.conf")),
    keyword("scram_client_key", "", Rejected("use password instead")),
    keyword("scram_server_key", "", Rejected("use password instead")),
    keyword("sslkeylogfile", "", Rejected(REMOVE)),
    keyword("oauth_issuer", "", Rejected("OAuth is not supported: use a password or a client certificate")),
    keyword("oauth_client_id", "", Rejected("OAuth is not supported: use a password or a client certificate")),
    keyword("oauth_client_secret", "", Rejected("OAuth is not supported: use a password or a client certificate")),
    keyword("oauth_scope", "", Rejected("OAuth is not supported: use a password or a client certificate")),
    // Parameters of other drivers, which regard only their own pools and statements.
    keyword("schema", "", Ignored),
    keyword("connection_limit", "", Ignored),
    keyword("pool_timeout", "", Ignored),
    keyword("socket_timeout", "", Ignored),
    keyword("pgbouncer", "", Ignored),
    keyword("statement_cache_size", "", Ignored),
    keyword("statement-cache-capacity", "", Ignored),
    keyword("pool", "", Ignored),
    keyword("prepared_statements", "", Ignored),
    keyword("pool_max_conns", "", Ignored),
    keyword("pool_min_conns", "", Ignored),
    keyword("default_query_exec_mode", "", Ignored),
    keyword("uselibpqcompat", "", Ignored),
    keyword("supa", "", Ignored),
    keyword("sslaccept", "", Only(&["accept_invalid_certs"],
        "libpq does not know it: remove it, and use sslmode=verify-full with sslrootcert")),
];

/// All parameters.
pub(super) fn all() -> impl Iterator<Item = &'static Keyword> {
    KEYWORDS.iter()
}

/// A parameter by its name, or by a name that sqlx accepts for it.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    let name = match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "ssl-cert" => "sslcert",
        "ssl-key" => "sslkey",
        name => name,
    };
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}
