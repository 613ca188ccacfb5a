//! Parameters of TLS, with libpq's defaults.

use std::path::PathBuf;

use anyhow::{bail, ensure};

use super::parameters::Parameters;
use crate::Environment;
use crate::authentication::ChannelBinding;
use crate::tls::{ClientFiles, Roots, Security, SslMode, TlsVersion};

/// Value of `sslrootcert` that stands for the system's certificates.
const SYSTEM: &str = "system";

/// TLS settings of the connection to one host.
pub(super) fn security(parameters: &Parameters, environment: &Environment) -> anyhow::Result<Security> {
    let roots = match parameters.get("sslrootcert") {
        Some(SYSTEM) => Roots::System,
        Some(file) => Roots::File(PathBuf::from(file)),
        None => Roots::Default(environment.in_home(".postgresql/root.crt")),
    };
    let mode = mode(parameters, &roots)?;
    let is_direct = match parameters.get("sslnegotiation") {
        None | Some("postgres") => false,
        Some("direct") => true,
        Some(_) => bail!("sslnegotiation{} must be postgres or direct", parameters.source("sslnegotiation")),
    };
    ensure!(
        !is_direct || !matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer),
        "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full: set one of them"
    );
    let [oldest, newest] = ["ssl_min_protocol_version", "ssl_max_protocol_version"];
    Ok(Security {
        mode,
        roots,
        client: client(parameters, environment)?,
        sends_server_name: flag(parameters, "sslsni")?,
        is_direct,
        binding: binding(parameters, mode)?,
        oldest: version(parameters, oldest)?.unwrap_or(TlsVersion::V1_2),
        newest: version(parameters, newest)?.unwrap_or(TlsVersion::V1_3),
    })
}

/// Setting of channel binding, which needs TLS.
fn binding(parameters: &Parameters, mode: SslMode) -> anyhow::Result<ChannelBinding> {
    let binding = match parameters.get("channel_binding") {
        None | Some("prefer") => ChannelBinding::Prefer,
        Some("disable") => ChannelBinding::Disable,
        Some("require") => ChannelBinding::Require,
        Some(_) => {
            bail!(
                "channel_binding{} must be disable, prefer or require",
                parameters.source("channel_binding")
            )
        }
    };
    ensure!(
        binding != ChannelBinding::Require || mode != SslMode::Disable,
        "channel_binding=require needs TLS: remove sslmode=disable, or use channel_binding=prefer"
    );
    Ok(binding)
}

fn mode(parameters: &Parameters, roots: &Roots) -> anyhow::Result<SslMode> {
    let is_system = matches!(roots, Roots::System);
    let source = parameters.source("sslmode");
    let mode = match parameters.get("sslmode") {
        None if is_system => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(_) => bail!("sslmode{source} must be disable, allow, prefer, require, verify-ca or verify-full"),
    };
    ensure!(
        !is_system || matches!(mode, SslMode::VerifyFull | SslMode::Disable),
        "sslrootcert=system needs sslmode=verify-full, because anyone can get a certificate of a public authority \
         for another name: set it"
    );
    Ok(mode)
}

/// Files of the client certificate. The default files are used if they exist.
fn client(parameters: &Parameters, environment: &Environment) -> anyhow::Result<Option<ClientFiles>> {
    match parameters.get("sslcertmode") {
        None | Some("allow") => {}
        Some("disable") => return Ok(None),
        Some(_) => bail!("sslcertmode{} must be allow or disable", parameters.source("sslcertmode")),
    }
    let file = |name, default| {
        let given = parameters.get(name).map(PathBuf::from);
        given.or_else(|| environment.in_home(default).filter(|file| file.exists()))
    };
    let certificate = file("sslcert", ".postgresql/postgresql.crt");
    let key = file("sslkey", ".postgresql/postgresql.key");
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(ClientFiles { certificate, key })),
        (Some(_), None) => bail!("there is a client certificate and no key: set sslkey to its file"),
        (None, _) => {
            ensure!(parameters.get("sslkey").is_none(), "sslkey is set without sslcert: set both or none");
            Ok(None)
        }
    }
}

fn flag(parameters: &Parameters, name: &str) -> anyhow::Result<bool> {
    match parameters.get(name) {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(_) => bail!("{name}{} must be 0 or 1", parameters.source(name)),
    }
}

fn version(parameters: &Parameters, name: &str) -> anyhow::Result<Option<TlsVersion>> {
    let is_upper = name.contains("max");
    Ok(Some(match parameters.get(name).map(str::to_ascii_lowercase).as_deref() {
        None => return Ok(None),
        Some("tlsv1.3") => TlsVersion::V1_3,
        Some("tlsv1.2") => TlsVersion::V1_2,
        // As a lower bound they are met by every version that Warden has.
        Some("tlsv1" | "tlsv1.1") if !is_upper => TlsVersion::V1_2,
        Some(_) => bail!("{name}{} must be TLSv1.2 or TLSv1.3", parameters.source(name)),
    }))
}
