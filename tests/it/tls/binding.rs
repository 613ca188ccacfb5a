//! Channel binding: a password that is of no use to a server in between.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::{openssl, use_files};
use super::{connect, expect};
use crate::harness::{LogCapture, TlsServer, Validity};

/// The request for TLS of PostgreSQL's protocol.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const NOT_OFFERED: Result<bool, &str> = Err("does not offer SCRAM-SHA-256-PLUS");

#[tokio::test]
async fn a_password_is_bound_to_the_connection() {
    let logs = LogCapture::begin();
    let server = TlsServer::start().await;
    let plain = TlsServer::start_plain().await;
    let bound = |server: &TlsServer| {
        let ip = format!("\"{}:5432\"", server.ip);
        logs.lines_with(&["database connection negotiated", &ip, "channel bound to the password"]).len()
    };
    expect(&server.url("by_password", "sslmode=require&channel_binding=disable"), Ok(true)).await;
    assert_eq!(bound(&server), 0, "{}", logs.text());
    let roots = server.path("ca.crt");
    for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
        let parameters = format!("sslmode={mode}&sslrootcert={roots}&channel_binding=require");
        expect(&server.url("by_password", &parameters), Ok(true)).await;
        // Nothing is sent in plain text.
        expect(&plain.url("by_password", &parameters), Err("the server offers no TLS")).await;
        let wrong = server.url("by_password", &parameters).replacen("p%40", "q%40", 1);
        expect(&wrong, Err("password authentication failed")).await;
        expect(&server.url("either", &parameters), NOT_OFFERED).await;
    }
    assert!(bound(&server) > 0, "{}", logs.text());
    let without = format!("postgres://by_password@{}/{}", server.ip, server.db.name());
    let without = format!("{without}?sslmode=require&passfile=/dev/null&channel_binding=require");
    expect(&without, Err("needs a password")).await;
    // A password that the server knows as an MD5 hash cannot be bound.
    server.db.run("set password_encryption = md5; create role by_md5 login superuser password 'p'").await;
    let hba = std::fs::read_to_string(server.path("pg_hba.conf")).expect("reads");
    server.file("pg_hba.conf", &format!("host all by_md5 all md5\n{hba}"));
    server.set("ssl_prefer_server_ciphers", "off").await;
    let by_md5 = format!("postgres://by_md5:p@{}/{}?sslmode=require", server.ip, server.db.name());
    expect(&by_md5, Ok(true)).await;
    expect(&format!("{by_md5}&channel_binding=require"), NOT_OFFERED).await;
    server.cluster.close().await.expect("closes");
    plain.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn the_hash_of_every_kind_of_certificate_is_known() {
    let server = TlsServer::start().await;
    let require = server.url("by_password", "sslmode=require&channel_binding=require");
    for (kind, options) in [
        ("RSA and SHA-256", "-newkey rsa:2048 -sha256"),
        ("RSA and SHA-1", "-newkey rsa:2048 -sha1"),
        ("RSA and SHA-384", "-newkey rsa:2048 -sha384"),
        ("RSASSA-PSS and SHA-512", "-newkey rsa:2048 -sha512 -sigopt rsa_padding_mode:pss"),
        ("ECDSA and SHA-384", "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha384"),
        ("ECDSA and SHA-512", "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha512"),
    ] {
        openssl(&server, &format!("req -x509 -days 2 -nodes -subj /CN=a -out a.crt -keyout a.key {options}"));
        use_files(&server, "a.crt", "a.key").await;
        assert_eq!(connect(&require).await, Ok(true), "{kind}");
    }
    openssl(&server, "req -x509 -days 2 -nodes -subj /CN=a -out a.crt -keyout a.key -newkey ed25519");
    use_files(&server, "a.crt", "a.key").await;
    expect(&require, Err("a signature without a hash (Ed25519)")).await;
    expect(&server.url("by_password", "sslmode=require"), Ok(true)).await;
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn a_server_in_between_gets_no_session() {
    let server = TlsServer::start().await;
    let port = relay_with_another_certificate(&server).await;
    let direct = server.url("by_password", "sslmode=require");
    let relayed = direct.replace(&format!("{}:5432", server.ip), &format!("127.0.0.1:{port}"));
    for binding in ["prefer", "require"] {
        let url = format!("{relayed}&channel_binding={binding}");
        expect(&url, Err("channel binding check failed")).await;
    }
    expect(&format!("{relayed}&channel_binding=disable"), Ok(true)).await;
    server.cluster.close().await.expect("closes");
}

/// Ends TLS with a certificate of its own, and passes everything on over TLS. Returns the port.
async fn relay_with_another_certificate(server: &TlsServer) -> u16 {
    let (certificate, key) = server.authority.issue(&["localhost"], "relay", Validity::Now);
    let provider = Arc::new(default_provider());
    let own = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
        )
        .expect("a configuration");
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(server.authority.pem.as_bytes()).expect("a certificate");
    roots.add(root).expect("an authority");
    let to_server = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(own)), TlsConnector::from(Arc::new(to_server)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (port, ip) = (listener.local_addr().expect("an address").port(), server.ip);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            client.read_exact(&mut [0; 8]).await.expect("a request for TLS");
            client.write_all(b"S").await.expect("answers");
            let mut client = acceptor.accept(client).await.expect("TLS");
            let mut server = TcpStream::connect((ip, 5432)).await.expect("connects");
            server.write_all(&SSL_REQUEST).await.expect("asks for TLS");
            server.read_exact(&mut [0]).await.expect("an answer");
            let name = ServerName::try_from(ip.to_string()).expect("a name");
            let mut server = connector.connect(name, server).await.expect("TLS");
            // Either side may end the connection in any way.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
    });
    port
}
