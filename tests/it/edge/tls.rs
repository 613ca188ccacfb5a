//! TLS in the gateway: real clients, a replaced certificate, an unusable certificate, and streams that end
//! cleanly.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;
use warden::config::Config;
use warden::http::TlsFiles;
use warden_testkit::phoenix::{self, Received};

use crate::harness::{Client, LogCapture, TestDb, TestGateway, eventually, token, within};
use crate::phoenix::driver::{Phoenix, config as phoenix_config};

/// Reload interval of tests that wait for a reload.
const SOON: Duration = Duration::from_millis(20);
/// Reload interval of tests in which no reload may happen.
const NEVER: Duration = Duration::from_hours(1);

/// Certificate and key files of a gateway.
struct Files {
    dir: PathBuf,
    files: TlsFiles,
}

impl Files {
    fn new() -> (Self, CertifiedKey<KeyPair>) {
        let dir = std::env::temp_dir().join(format!("warden-tls-{}", Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("creates");
        let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") };
        let this = Self { dir, files };
        let pair = fresh();
        this.write(&pair, &pair);
        (this, pair)
    }

    fn write(&self, certificate: &CertifiedKey<KeyPair>, key: &CertifiedKey<KeyPair>) {
        std::fs::write(&self.files.certificate, certificate.cert.pem()).expect("writes");
        std::fs::write(&self.files.key, key.signing_key.serialize_pem()).expect("writes");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn fresh() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).expect("generates")
}

async fn start(files: &Files, interval: Duration, change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(TestDb::create().await, |config| {
        config.edge.tls = Some(files.files.clone());
        config.limits.tls_reload_interval = interval;
        change(config);
    })
    .await
}

/// Opens a TLS connection that trusts only this certificate.
async fn connect(t: &TestGateway, trusted: &CertifiedKey<KeyPair>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).expect("is one");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TcpStream::connect(t.gateway.public_addr()).await.expect("connects");
    within("TLS", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

type TlsClient = Client<TlsStream<TcpStream>>;

async fn client(t: &TestGateway, trusted: &CertifiedKey<KeyPair>, org: Uuid) -> TlsClient {
    let stream = connect(t, trusted).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let token = token(org, &json!({}));
    let socket = within("the upgrade", phoenix::connect_over(stream, &token, None)).await;
    Client::new(socket.expect("is accepted"))
}

#[tokio::test]
async fn a_tls_session_receives_all_events_in_order_and_ends_cleanly() {
    const EVENTS: usize = 200;
    let (files, pair) = Files::new();
    let t = start(&files, NEVER, |_| {}).await;
    let org = t.db.create_org().await;
    let (mut main, mut quick) = (client(&t, &pair, org).await, client(&t, &pair, org).await);
    let tcp = socket2::SockRef::from(main.socket.get_ref().get_ref().0);
    tcp.set_recv_buffer_size(64 * 1024).expect("a smaller buffer");
    main.join("calls").await;
    quick.join("calls").await;
    // More than the buffers of the kernel and TLS hold, so that frames wait in the outbox and in TLS.
    let publish = "select count(warden.publish($1, 'calls', 'large', jsonb_build_object('n', n, 'x', repeat('x', 10000))))
                   from generate_series(0, $2 - 1) n";
    sqlx::query(publish)
        .bind(org)
        .bind(i32::try_from(EVENTS).expect("small"))
        .execute(&t.db.pool)
        .await
        .expect("publishes");
    for _ in 0..EVENTS {
        quick.expect_event("calls", "large").await;
    }
    for n in 0..EVENTS {
        assert_eq!(main.expect_event("calls", "large").await.data("n"), &json!(n));
    }
    assert_eq!(t.gateway.metrics().direct_writes.get(), 0, "a frame bypassed TLS");
    main.socket.send(Message::Ping("x".into())).await.expect("sends");
    match within("a pong", main.socket.next()).await {
        Some(Ok(Message::Pong(data))) => assert_eq!(&data[..], b"x"),
        other => panic!("instead of a pong: {other:?}"),
    }
    quick.socket.close(None).await.expect("says goodbye");
    let stopped = tokio::spawn(t.gateway.stop());
    main.expect_close(1012).await;
    main.socket.flush().await.expect("answers the close");
    // rustls reports an end without close_notify as an error, because an attacker could have cut the stream.
    let mut rest = Vec::new();
    let end = within("the end", main.socket.get_mut().read_to_end(&mut rest)).await;
    assert_eq!(end.expect("a close_notify"), 0, "{rest:?}");
    stopped.await.expect("stops");
}

#[tokio::test]
async fn a_slow_client_over_tls_is_closed() {
    let (files, pair) = Files::new();
    let t = start(&files, NEVER, |config| {
        config.limits.outbox.queue_bytes_max = 256 * 1024;
        config.limits.session.close_timeout = Duration::from_secs(60);
    })
    .await;
    let org = t.db.create_org().await;
    let (mut slow, mut quick) = (client(&t, &pair, org).await, client(&t, &pair, org).await);
    let tcp = socket2::SockRef::from(slow.socket.get_ref().get_ref().0);
    tcp.set_recv_buffer_size(64 * 1024).expect("a smaller buffer");
    slow.join("calls").await;
    quick.join("calls").await;
    for _ in 0..300 {
        let publish =
            "select warden.publish($1, 'calls', 'large', jsonb_build_object('x', repeat('x', 30000)))";
        sqlx::query(publish).bind(org).execute(&t.db.pool).await.expect("publishes");
        quick.expect_event("calls", "large").await;
    }
    let mut received = 0;
    let code = within("a close", async {
        loop {
            match phoenix::receive(&mut slow.socket).await {
                Received::Message(_) => received += 1,
                Received::Closed(code) => break code,
                other => panic!("instead of a close: {other:?}"),
            }
        }
    })
    .await;
    assert!(code == 4429 && received < 300, "{code} after {received}");
    drop((slow, quick));
    t.gateway.stop().await;
}

#[tokio::test]
async fn plain_text_and_silent_connections_are_dropped() {
    let (files, pair) = Files::new();
    let t =
        start(&files, NEVER, |config| config.limits.serve.header_timeout = Duration::from_millis(500)).await;
    let mut silent = TcpStream::connect(t.gateway.public_addr()).await.expect("connects");
    let mut plain = TcpStream::connect(t.gateway.public_addr()).await.expect("connects");
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    for stream in [&mut silent, &mut plain] {
        let mut answer = Vec::new();
        // The connection may end in a reset.
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "plain text was answered");
    }
    // After the TLS handshake a request must follow in time as well.
    let mut rests = connect(&t, &pair).await.expect("TLS");
    let mut rest = Vec::new();
    let _ = within("the end", rests.read_to_end(&mut rest)).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_loaded_while_sessions_stay_open() {
    let (files, first) = Files::new();
    let logs = LogCapture::begin();
    let t = start(&files, SOON, |_| {}).await;
    let org = t.db.create_org().await;
    let mut open = client(&t, &first, org).await;
    open.join("calls").await;

    let second = fresh();
    assert!(connect(&t, &second).await.is_err());
    files.write(&second, &second);
    eventually("the new certificate", async || connect(&t, &second).await.is_ok()).await;
    assert!(connect(&t, &first).await.is_err(), "the former certificate is still in use");

    // An unusable certificate is logged and changes nothing.
    let path = files.files.certificate.display().to_string();
    let key_path = files.files.key.display().to_string();
    let other = fresh();
    files.write(&other, &second);
    let told = |texts: &'static [&'static str]| {
        let logs = &logs;
        async move || !logs.lines_with(texts).is_empty()
    };
    eventually("the error is logged", told(&["cannot be used together", "WARDEN_TLS_KEY", "KeyMismatch"]))
        .await;
    std::fs::write(&files.files.certificate, "nonsense").expect("writes");
    eventually("the error is logged", async || {
        !logs.lines_with(&["contains no certificate", &path]).is_empty()
    })
    .await;
    std::fs::write(&files.files.certificate, second.cert.pem()).expect("writes");
    std::fs::write(&files.files.key, "nonsense").expect("writes");
    eventually("the error is logged", async || {
        !logs.lines_with(&["contains no private key", &key_path]).is_empty()
    })
    .await;
    std::fs::remove_file(&files.files.certificate).expect("removes");
    eventually("the error is logged", async || {
        !logs.lines_with(&["cannot read", "WARDEN_TLS_CERT"]).is_empty()
    })
    .await;
    connect(&t, &second).await.expect("the last good one is in use");
    // Each error is logged once, although the files are checked repeatedly.
    assert_eq!(logs.lines_with(&["cannot read", "WARDEN_TLS_CERT"]).len(), 1);

    let third = fresh();
    files.write(&third, &third);
    eventually("the repaired certificate", async || connect(&t, &third).await.is_ok()).await;
    t.db.insert_call(org).await;
    open.expect_event("calls", "call.created").await;

    // SIGHUP reloads at once. (The gateway above installed the handler; without it the signal would end the
    // process.)
    let (hung, before) = Files::new();
    let h = start(&hung, NEVER, |_| {}).await;
    let after = fresh();
    hung.write(&after, &after);
    connect(&h, &before).await.expect("nobody has looked yet");
    eventually("the certificate after SIGHUP", async || {
        kill_process(getpid(), Signal::HUP).expect("signals");
        connect(&h, &after).await.is_ok()
    })
    .await;
    h.gateway.stop().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_with_an_unusable_certificate_does_not_start() {
    let (files, _) = Files::new();
    std::fs::write(&files.files.key, fresh().signing_key.serialize_pem()).expect("writes");
    let db = TestDb::create().await;
    let error = TestGateway::try_gateway(&db, |config| config.edge.tls = Some(files.files.clone())).await;
    let error = format!("{:#}", error.expect_err("a key of another certificate"));
    assert!(error.contains("WARDEN_TLS_CERT and WARDEN_TLS_KEY cannot be used together"), "{error}");
}

#[tokio::test]
async fn the_phoenix_client_connects_over_tls() {
    let (files, _) = Files::new();
    let t = start(&files, NEVER, |_| {}).await;
    let org = t.db.create_org().await;
    let mut settings = phoenix_config(&t.gateway, &token(org, &json!({})));
    settings["url"] = json!(format!("wss://localhost:{}/socket", t.gateway.public_addr().port()));
    settings["topics"] = json!(["calls"]);
    let mut client = Phoenix::start_trusting(&settings, Some(&files.files.certificate)).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    t.gateway.stop().await;
    client.expect_close(1012).await;
}
