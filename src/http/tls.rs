//! TLS: rustls, versions 1.2 and 1.3, with a certificate that can be replaced while the gateway runs.
//!
//! The files are read again at an interval and on SIGHUP. If the new pair cannot be used, that is logged, and
//! new connections get the former certificate. This module must not log any contents of the files.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use warden_connect::ShownPath;

use crate::service::{Schedule, periodic};
use crate::sync::lock;

/// Paths of certificate and key.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM file with the certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key, unencrypted.
    pub key: PathBuf,
}

/// Reason why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{variable}: cannot read {}: {source}", ShownPath(path))]
    Read {
        /// Variable that names the file.
        variable: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A file has the wrong content.
    #[error(
        "{variable}: {} contains no {expected} in PEM format (is it encrypted, or DER?)",
        ShownPath(path)
    )]
    Pem {
        /// Variable that names the file.
        variable: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Expected content.
        expected: &'static str,
    },
    /// The key does not belong to the certificate, or rustls does not support them.
    #[error("WARDEN_TLS_CERT and WARDEN_TLS_KEY cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// Hash of both files, to notice changes.
type Contents = [u8; 32];

/// Certificate of the public listener, kept current.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: Mutex<Arc<ServerConfig>>,
    /// Hash of the files when they were last read, so that an invalid pair is logged once. None if they were
    /// unreadable.
    seen: Mutex<Option<Contents>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they are not a certificate and its key. The message names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let (contents, config) = read(&files)?;
        let config = config?;
        Ok(Self { files, current: Mutex::new(config), seen: Mutex::new(Some(contents)) })
    }

    /// Performs a TLS handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&lock(&self.current));
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Reloads the certificate at each `interval`, and on SIGHUP, for ever.
    pub async fn keep_current(self: Arc<Self>, interval: Duration) {
        let hangup = Notify::new();
        let schedule = Schedule { interval, retry: (interval, interval), starts_immediately: false };
        let reload = periodic(schedule, &hangup, |_| async {
            let tls = Arc::clone(&self);
            // On a blocking thread, because the disk may be slow.
            if let Err(error) = tokio::task::spawn_blocking(move || tls.reload()).await {
                tracing::error!(%error, "reloading the certificate failed");
            }
            Ok::<(), Infallible>(())
        });
        tokio::join!(notify_on_hangup(&hangup), reload);
    }

    fn reload(&self) {
        match read(&self.files) {
            Ok((contents, config)) => {
                if lock(&self.seen).replace(contents) == Some(contents) {
                    return;
                }
                match config {
                    Ok(config) => {
                        *lock(&self.current) = config;
                        tracing::info!(path = %self.files.certificate.display(), "new certificate in use");
                    }
                    Err(error) => log_invalid(&error),
                }
            }
            // Logged once, until the files are readable again.
            Err(error) => {
                if lock(&self.seen).take().is_some() {
                    log_invalid(&error);
                }
            }
        }
    }
}

async fn notify_on_hangup(reload: &Notify) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                reload.notify_one();
            }
        }
        Err(error) => {
            tracing::warn!(%error, "cannot listen for SIGHUP: the certificate is reloaded at an interval only");
        }
    }
}

fn log_invalid(error: &TlsError) {
    tracing::error!(%error, "the new certificate cannot be used: the former certificate remains in use");
}

/// Reads both files. The outer error is for unreadable files, the inner one for invalid contents.
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
        return Err(TlsError::Pem { variable: "WARDEN_TLS_CERT", path, expected: "certificate" });
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Pem {
        variable: "WARDEN_TLS_KEY",
        path: files.key.clone(),
        expected: "private key",
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        // Checks that the key belongs to the certificate.
        .with_single_cert(chain, key)?;
    // A WebSocket begins as HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
