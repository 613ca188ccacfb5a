//! The client certificate and its key, which must be as secret as libpq demands.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certificate::Certificate;
use super::{ClientFiles, certificates};
use crate::ShownPath;

/// Beginnings of lines in encrypted keys, of both PEM forms.
const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];

/// Reads the certificate and its key.
pub(super) fn identity(
    files: &ClientFiles,
    provider: &CryptoProvider,
) -> anyhow::Result<Arc<SingleCertAndKey>> {
    let chain = certificates(&files.certificate, "sslcert")?;
    let path = files.key.display();
    let key = key(&files.key)?;
    let key = provider.key_provider.load_private_key(key).with_context(|| {
        format!("sslkey {path} has a kind of key that Warden does not support: use RSA, ECDSA or Ed25519")
    })?;
    // rustls compares them, too, but rejects certificates of X.509 version 1.
    let of_certificate = chain.first().and_then(|first| Certificate::read(first));
    let of_certificate = of_certificate.with_context(|| {
        format!(
            "sslcert {} is not a certificate that can be read: issue it again",
            files.certificate.display()
        )
    })?;
    ensure!(
        key.public_key().is_none_or(|public| public.as_ref() == of_certificate.public_key_info),
        "sslcert {} and sslkey {path} do not belong together: use the key for which the certificate was issued",
        files.certificate.display()
    );
    Ok(Arc::new(CertifiedKey::new(chain, key).into()))
}

/// Reads an unencrypted key.
fn key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let path = file.display();
    let metadata = fs::metadata(file).with_context(|| format!("sslkey: cannot read {}", ShownPath(file)))?;
    ensure!(metadata.is_file(), "sslkey {path} is not a plain file: set sslkey to the file of the key");
    ensure!(
        is_secret(&metadata),
        "sslkey {path} may be read by others (its mode is {:03o}): run chmod 600 on it, or chmod 640 if root owns it",
        metadata.permissions().mode() & 0o777
    );
    let bytes = fs::read(file).with_context(|| format!("sslkey: cannot read {}", ShownPath(file)))?;
    let is_encrypted = String::from_utf8_lossy(&bytes)
        .lines()
        .any(|line| ENCRYPTED.iter().any(|beginning| line.starts_with(beginning)));
    ensure!(
        !is_encrypted,
        "sslkey {path} is encrypted, which is not supported: decrypt it (openssl pkey -in {path} -out FILE), and run \
         chmod 600 on the result"
    );
    let key = PrivateKeyDer::from_pem_slice(&bytes).ok();
    // As libpq does, accept DER, too.
    key.or_else(|| PrivateKeyDer::try_from(bytes).ok()).with_context(|| {
        format!("sslkey {path} contains no private key in PEM form: set sslkey to the file of the key")
    })
}

/// Whether only the owner may read the file. As in libpq, a group may read the files of root.
fn is_secret(metadata: &Metadata) -> bool {
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    metadata.permissions().mode() & forbidden == 0
}
