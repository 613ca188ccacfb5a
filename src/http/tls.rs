//! TLS in the process: rustls, versions 1.2 and 1.3, with a certificate that can be replaced while it runs.
//!
//! The files are read again now and then, and on SIGHUP. A pair that can't be used changes nothing but the
//! log: connections go on with the one before. Nothing here logs what is in the files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM: the certificate, then those between it and the root.
    pub certificate: PathBuf,
    /// PEM: the certificate's private key, not encrypted.
    pub key: PathBuf,
}

/// Why there is no TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    Read {
        /// Names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{variable}: {} holds no {what} in PEM (is it encrypted, or DER?)", path.display())]
    Pem {
        /// Names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The two don't go together, or with rustls.
    #[error("WARDEN_TLS_CERT and WARDEN_TLS_KEY can't be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// The hash of both files: tells whether they changed.
type Contents = [u8; 32];

/// See the module's documentation.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: Mutex<Arc<ServerConfig>>,
    /// Of the files as they were read last, good or bad: a bad pair is told of once.
    seen: Mutex<Option<Contents>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they are no certificate with its key; the text names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let (contents, config) = read(&files)?;
        let config = config?;
        Ok(Self { files, current: Mutex::new(config), seen: Mutex::new(Some(contents)) })
    }

    /// A TLS handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&lock(&self.current));
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Looks at the files each `interval`, and on SIGHUP, until `shutdown`.
    pub async fn reload(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP can't be heard; certificates are looked at on a timer alone");
                None
            }
        };
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
                () = asked => {}
            }
            let tls = Arc::clone(&self);
            // Files may lie on a disk that takes its time.
            if let Err(error) = tokio::task::spawn_blocking(move || tls.look()).await {
                tracing::error!(%error, "the certificate could not be looked at");
            }
        }
    }

    fn look(&self) {
        match read(&self.files) {
            Ok((contents, config)) => {
                if lock(&self.seen).replace(contents) == Some(contents) {
                    return;
                }
                match config {
                    Ok(config) => {
                        *lock(&self.current) = config;
                        tracing::info!(path = %self.files.certificate.display(), "a new certificate is in use");
                    }
                    Err(error) => tell(&error),
                }
            }
            // Told once, until the files can be read again.
            Err(error) => {
                if lock(&self.seen).take().is_some() {
                    tell(&error);
                }
            }
        }
    }
}

fn tell(error: &TlsError) {
    tracing::error!(%error, "the new certificate can't be used: connections go on with the one before");
}

/// What both files hold, and what that is.
fn read(files: &TlsFiles) -> Result<(Contents, Result<Arc<ServerConfig>, TlsError>), TlsError> {
    let file = |variable: &'static str, path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Read { variable, path: path.to_owned(), source })
    };
    let certificate = file("WARDEN_TLS_CERT", &files.certificate)?;
    let key = file("WARDEN_TLS_KEY", &files.key)?;
    let mut hash = Sha256::new();
    hash.update(certificate.len().to_be_bytes());
    hash.update(&certificate);
    hash.update(&key);
    Ok((hash.finalize().into(), config(files, &certificate, &key)))
}

fn config(files: &TlsFiles, certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().unwrap_or_default();
    if chain.is_empty() {
        let path = files.certificate.clone();
        return Err(TlsError::Pem { variable: "WARDEN_TLS_CERT", path, what: "certificate" });
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Pem {
        variable: "WARDEN_TLS_KEY",
        path: files.key.clone(),
        what: "private key",
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        // This compares the key with the certificate.
        .with_single_cert(chain, key)?;
    // WebSockets begin as HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
