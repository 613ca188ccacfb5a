//! A key server over https, as in production: the real binary must verify the server's certificate.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use uuid::Uuid;

use super::{ISSUER, claims_of};
use crate::harness::{IssuerKey, TestDb, Upgrade, eventually};

/// A file that is removed when the test ends.
struct CaFile(PathBuf);

impl Drop for CaFile {
    fn drop(&mut self) {
        // A leftover file in the temporary directory does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves this body over TLS with a certificate for `name`. Returns the address and the certificate of the
/// authority.
async fn serve(name: &str, body: String) -> (SocketAddr, CaFile) {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::from_params(&params, &ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let path = std::env::temp_dir().join(format!("warden-ca-{}.pem", Uuid::new_v4()));
    std::fs::write(&path, ca.pem()).expect("writes");
    (addr, CaFile(path))
}

/// Starts `warden serve` with this key server. Returns the process and its public address.
fn gateway(db: &TestDb, url: &str, trusted: &Path) -> (Child, SocketAddr) {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address");
    let (public, admin) = (free(), free());
    let child = Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", db.gateway_url())
        .env("WARDEN_JWT_ISSUER", ISSUER)
        .env("WARDEN_JWKS_URLS", url)
        .env("WARDEN_LISTEN", public.to_string())
        .env("WARDEN_ADMIN_LISTEN", admin.to_string())
        .env("SSL_CERT_FILE", trusted)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    (child, public)
}

async fn readyz(addr: SocketAddr) -> (u16, String) {
    // The process needs a moment until it listens.
    if tokio::net::TcpStream::connect(addr).await.is_err() {
        return (0, String::new());
    }
    let request = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let answer = request.send(addr).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn keys_are_fetched_only_from_a_server_with_a_valid_certificate() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let key = IssuerKey::es256();
    let body = serde_json::json!({"keys": [key.jwk("1")]}).to_string();
    let (addr, ca) = serve("localhost", body.clone()).await;
    let (misnamed, its_ca) = serve("other.example", body).await;
    let url = format!("https://localhost:{}/jwks.json", addr.port());
    let misnamed_url = format!("https://localhost:{}/jwks.json", misnamed.port());
    let token = key.sign("1", &claims_of(ISSUER, org));

    let (_good, public) = gateway(&db, &url, &ca.0);
    eventually("the keys are fetched", async || readyz(public).await == (200, "ok\n".to_owned())).await;
    assert_eq!(Upgrade::bearer(&token).send(public).await.status, 101);

    for (name, url, trusted) in
        [("another authority", &url, &its_ca.0), ("another name", &misnamed_url, &its_ca.0)]
    {
        let (_bad, public) = gateway(&db, url, trusted);
        eventually(name, async || readyz(public).await.1.contains("keys")).await;
        // A gateway that does not follow the log yet answers `unavailable` before it checks the token.
        let code = async || Upgrade::bearer(&token).send(public).await.code();
        eventually(name, async || code().await != "unavailable").await;
        let answer = Upgrade::bearer(&token).send(public).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "keys_unavailable"), "{name}: {answer:?}");
    }
}
