//! TLS to a server: settings, files, and the meaning of failures.
//!
//! - `verifier` verifies the server's certificate as libpq does.
//! - `certificate` reads what rustls does not: common names, and certificates of X.509 version 1.
//! - `client` reads the client certificate and its key.
//! - `failure` explains errors of TLS.

mod certificate;
mod client;
mod failure;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use rustls::{ClientConfig, SupportedProtocolVersion};

use self::certificate::{Certificate, Hash};
pub(crate) use self::failure::explain;
use self::verifier::{Check, Verifier};
use crate::ShownPath;
use crate::authentication::ChannelBinding;

/// Name of PostgreSQL's protocol in ALPN, with which a server recognises direct TLS.
const ALPN: &[u8] = b"postgresql";

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Certificates of trusted authorities.
#[derive(Clone, Debug)]
pub(crate) enum Roots {
    /// Those of the operating system.
    System,
    /// Those in this file, and no others.
    File(PathBuf),
    /// Those in libpq's default file, if it exists.
    Default(Option<PathBuf>),
}

/// Files of the client certificate.
#[derive(Clone, Debug)]
pub(crate) struct ClientFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    V1_2,
    V1_3,
}

/// TLS settings of the connection to one host.
#[derive(Clone, Debug)]
pub(crate) struct Security {
    pub(crate) mode: SslMode,
    pub(crate) roots: Roots,
    pub(crate) client: Option<ClientFiles>,
    pub(crate) sends_server_name: bool,
    /// Whether TLS begins without PostgreSQL's request for it.
    pub(crate) is_direct: bool,
    pub(crate) binding: ChannelBinding,
    pub(crate) oldest: TlsVersion,
    pub(crate) newest: TlsVersion,
}

/// Everything that a handshake needs.
pub(crate) struct TlsSession {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
    /// Extent of the verification, for the log.
    pub(crate) verified: &'static str,
}

/// Prepares a handshake. The files are read each time, so that they can be replaced while Warden runs.
pub(crate) async fn session(security: &Security, host: &str) -> anyhow::Result<TlsSession> {
    let (security, host) = (security.clone(), host.to_owned());
    tokio::task::spawn_blocking(move || prepare(&security, &host))
        .await
        .context("cannot read the files of TLS")?
}

fn prepare(security: &Security, host: &str) -> anyhow::Result<TlsSession> {
    let (check, trusted) = trusted(security)?;
    let verified = match check {
        Check::Nothing => "certificate not verified",
        Check::Chain => "certificate verified, host name not",
        Check::ChainAndName => "certificate and host name verified",
    };
    let server_name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        // Not a name that a certificate could have, so none is sent.
        Err(_) if check != Check::ChainAndName => {
            ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
        }
        Err(_) => bail!("the host {host} is not a DNS name: sslmode=verify-full needs one"),
    };
    let provider = Arc::new(default_provider());
    let verifier = Verifier::new(check, trusted, &provider)?;
    let all: [(TlsVersion, &'static SupportedProtocolVersion); 2] =
        [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
    let versions: Vec<&'static SupportedProtocolVersion> = all
        .into_iter()
        .filter(|(version, _)| (security.oldest..=security.newest).contains(version))
        .map(|(_, version)| version)
        .collect();
    ensure!(
        !versions.is_empty(),
        "ssl_min_protocol_version is later than ssl_max_protocol_version: swap them"
    );
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &security.client {
        None => builder.with_no_client_auth(),
        Some(files) => builder.with_client_cert_resolver(client::identity(files, &provider)?),
    };
    config.enable_sni = security.sends_server_name;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsSession { config: Arc::new(config), server_name, verified })
}

/// Hash of a server's certificate, to which a password is bound (`tls-server-end-point`); `None` if the
/// certificate's signature has no hash.
pub(crate) fn channel_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = match Certificate::read(certificate)?.hash()? {
        Hash::Weak | Hash::Sha256 => &digest::SHA256,
        Hash::Sha224 => &digest::SHA224,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// Extent of the verification, and the certificates to trust. As in libpq, `require` verifies the chain if
/// there is a file of authorities.
fn trusted(security: &Security) -> anyhow::Result<(Check, Vec<CertificateDer<'static>>)> {
    let check = match security.mode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => return Ok((Check::Nothing, Vec::new())),
        SslMode::Require | SslMode::VerifyCa => Check::Chain,
        SslMode::VerifyFull => Check::ChainAndName,
    };
    match &security.roots {
        Roots::System => {
            let loaded = rustls_native_certs::load_native_certs();
            ensure!(
                !loaded.certs.is_empty(),
                "sslrootcert=system: this system has no certificates of authorities: install ca-certificates, or set \
                 SSL_CERT_FILE"
            );
            Ok((check, loaded.certs))
        }
        Roots::File(file) => Ok((check, certificates(file, "sslrootcert")?)),
        Roots::Default(Some(file)) if file.exists() => {
            Ok((check, certificates(file, "the default sslrootcert")?))
        }
        Roots::Default(_) if security.mode == SslMode::Require => Ok((Check::Nothing, Vec::new())),
        Roots::Default(file) => bail!(
            "sslmode={} needs the certificates of authorities, and {} does not exist: set sslrootcert to a file, or to \
             system for the authorities of this system",
            if check == Check::Chain { "verify-ca" } else { "verify-full" },
            file.as_ref()
                .map_or_else(|| "~/.postgresql/root.crt".to_owned(), |file| file.display().to_string())
        ),
    }
}

/// Certificates of a PEM file.
fn certificates(file: &Path, parameter: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(file).with_context(|| format!("{parameter}: cannot read {}", ShownPath(file)))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.with_context(|| {
        format!(
            "{parameter} {} contains no certificate in PEM form: convert it (openssl x509)",
            file.display()
        )
    })
}
