//! Addresses and answers of sources that must be refused. Each is tried with a fetcher; a listener on this
//! machine counts connections, and none arrives. Sources over TLS, and sources that keep connections open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use warden::recordings::{AddressPolicy, Failure, Fetcher, Resolve, SourceLimits};
use warden_testkit::within;

use super::source::Sources;

const LIMITS: SourceLimits = SourceLimits {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(5),
    total: Duration::from_secs(30),
    bytes_max: 1024 * 1024,
};

/// URLs of private addresses, and tricks to hide them. `PORT` is the port of a listener on this machine.
const REFUSED: [&str; 62] = [
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST:PORT/",
    "http://localhost.:PORT/",
    "http://%6cocalhost:PORT/",
    "http://127.0.0.%31:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://127。0。0。1:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[::ffff:0:127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://2852039166/",
    "http://[::ffff:169.254.169.254]/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/latest/meta-data/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://10.0.0.1/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://user@127.0.0.1:PORT/",
    "http://user:secret@example.com/",
    "http://example.com@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.com/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_GET",
    "data:audio/wav;base64,UklGRg==",
    "unix:///var/run/docker.sock",
    "http:///nothing",
    "//127.0.0.1:PORT/",
    "http://127.0.0.1:25/",
    "http://private.example:PORT/",
];

/// Answers each question with the next of its lists of addresses.
#[derive(Debug)]
struct Changing {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Changing {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parsed =
            |list: &&[&str]| list.iter().map(|address| address.parse().expect("an address")).collect();
        Arc::new(Self { answers: answers.iter().map(parsed).collect(), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Changing {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        if host.starts_with("localhost") {
            return Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) });
        }
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.get(n).or(self.answers.last()).cloned().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    }
}

fn fetcher(policy: AddressPolicy, resolver: Arc<dyn Resolve>) -> Fetcher {
    Fetcher::new(policy, true, LIMITS).expect("authorities").with_network(resolver, None)
}

/// The source's listener, as allowed network.
fn local() -> AddressPolicy {
    AddressPolicy::new(vec!["127.0.0.1/32".parse().expect("a network")])
}

#[tokio::test]
async fn private_addresses_are_refused_in_every_form() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("binds");
    let port = listener.local_addr().expect("is bound").port();
    let listeners = [listener, TcpListener::bind((Ipv6Addr::LOCALHOST, port)).expect("binds")];
    let fetcher = fetcher(AddressPolicy::default(), Changing::new(&[&["10.1.2.3"]]));
    for url in REFUSED {
        let url = url.replace("PORT", &port.to_string());
        match fetcher.fetch(&url, None).await {
            Err(Failure::Permanent(reason)) => {
                assert!(!reason.contains("secret") && !reason.contains("/latest"), "{url}: {reason}");
            }
            other => panic!("{url}: {other:?}"),
        }
        for listener in &listeners {
            listener.set_nonblocking(true).expect("a mode");
            let accepted = listener.accept().map_err(|error| error.kind());
            assert_eq!(accepted.err(), Some(std::io::ErrorKind::WouldBlock), "{url}: a connection arrived");
        }
    }
}

/// A name with a public and a private address, and one whose second answer would be private.
#[tokio::test]
async fn a_name_that_changes_its_answer_does_not_lead_inward() {
    let sources = Sources::start().await;
    let url = format!("http://rebinding.example:{}/good/1", sources.addr.port());
    let both = fetcher(AddressPolicy::default(), Changing::new(&[&["1.1.1.1", "127.0.0.1"]]));
    assert!(matches!(both.fetch(&url, None).await, Err(Failure::Permanent(_))));
    // The allowed network stands for a public address here. The connection goes to the address of the first
    // answer, which was checked.
    let resolver = Changing::new(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let changing = fetcher(local(), Arc::clone(&resolver) as Arc<dyn Resolve>);
    changing.fetch(&url, None).await.expect("the first answer");
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1, "one question for each request");
    assert!(matches!(changing.fetch(&url, None).await, Err(Failure::Permanent(_))), "the second answer");
    // A redirect is a request of its own.
    let resolver = Changing::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let moved = format!("http://rebinding.example:{}/moved/1", sources.addr.port());
    let refused = fetcher(local(), resolver).fetch(&moved, None).await;
    assert!(matches!(refused, Err(Failure::Permanent(_))), "{refused:?}");
    assert_eq!(sources.count("/good/1"), 1);
}

#[tokio::test]
async fn http_is_refused_unless_it_is_allowed() {
    let sources = Sources::start().await;
    let url = sources.url("good", 1);
    let secure = Fetcher::new(local(), false, LIMITS).expect("authorities");
    match secure.fetch(&url, None).await {
        Err(Failure::Permanent(reason)) => assert!(reason.contains("http is not allowed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fetcher(local(), Changing::new(&[])).fetch(&url, None).await.expect("allowed");
}

/// Sends this answer to every connection, and then nothing. Reports each connection that its client closes.
async fn stall(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("is bound");
    let (closed, closures) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let closed = closed.clone();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.expect("writes");
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                let _ = closed.send(());
            });
        }
    });
    (addr, closures)
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
}

/// A source could otherwise keep a connection, a task and a buffer of the worker for each attempt.
#[tokio::test]
async fn connections_to_abandoned_sources_are_closed() {
    let limits = SourceLimits { silence: Duration::from_millis(200), ..LIMITS };
    let fetcher = Fetcher::new(local(), true, limits).expect("authorities");
    for (answer, expected) in [
        ("", "no answer in time"),
        ("HTTP/1.1 200 OK\r\n", "no answer in time"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nRIFF", "stopped sending"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nRIFF\r\n", "stopped sending"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\nno", "answers 404"),
        ("HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\ncontent-length: 100\r\n\r\n", "10.0.0.1"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\nRIFF", "more than 1 MiB"),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-encoding: gzip\r\ncontent-length: 9\r\n\r\n",
            "compressed",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nRIFF", "does not say where the recording ends"),
    ] {
        let (addr, mut closures) = stall(answer).await;
        let failure = read(&fetcher, &format!("http://{addr}/")).await.expect_err(answer).to_string();
        assert!(failure.contains(expected), "{answer}: {failure}");
        within("the connection is closed", closures.recv()).await.expect("is reported");
    }
}

/// Fetches a source to its end.
async fn read(fetcher: &Fetcher, url: &str) -> Result<Vec<u8>, Failure> {
    let mut body = fetcher.fetch(url, None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Serves this answer over TLS as `name`. Returns the address, and a client that trusts the certificate's
/// authority.
async fn serve_tls(name: &str, answer: String) -> (SocketAddr, Arc<ClientConfig>) {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let ca = params.self_signed(&ca_key).expect("a certificate");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &ca_key)).expect("a certificate");
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            read_head(&mut stream).await;
            let _ = write(&mut stream, &answer).await;
        }
    });
    (addr, trusting(ca.der().clone()))
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), answer: &str) -> std::io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn trusting(authority: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The certificate must be that of the name in the URL, from an authority that is trusted, although the
/// connection goes to an address.
#[tokio::test]
async fn https_sources_are_verified() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nRIFF".to_owned();
    let (addr, trust) = serve_tls("media.example", answer).await;
    let resolver = || Changing::new(&[&["127.0.0.1"]]);
    let trusting =
        Fetcher::new(local(), false, LIMITS).expect("authorities").with_network(resolver(), Some(trust));
    let url = |name: &str| format!("https://{name}:{}/", addr.port());
    assert_eq!(read(&trusting, &url("media.example")).await, Ok(b"RIFF".to_vec()));
    let failure = read(&trusting, &url("other.example")).await.expect_err("another name").to_string();
    assert!(failure.contains("certificate not valid for name"), "{failure}");
    let system = Fetcher::new(local(), false, LIMITS).expect("authorities").with_network(resolver(), None);
    let failure = read(&system, &url("media.example")).await.expect_err("another authority").to_string();
    assert!(failure.contains("invalid peer certificate"), "{failure}");
}

/// Not even if http is allowed: the source has promised a secure way.
#[tokio::test]
async fn https_sources_do_not_redirect_to_http() {
    let sources = Sources::start().await;
    let location = sources.url("good", 1);
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let (addr, trust) = serve_tls("media.example", answer).await;
    let fetcher = Fetcher::new(local(), true, LIMITS)
        .expect("authorities")
        .with_network(Changing::new(&[&["127.0.0.1"]]), Some(trust));
    let failure = read(&fetcher, &format!("https://media.example:{}/", addr.port())).await;
    let expected = "media.example: redirects from https to http";
    assert_eq!(failure, Err(Failure::Permanent(expected.to_owned())));
    assert_eq!(sources.count("/good/1"), 0);
}

/// The queue waits as long as a source asks, up to an hour.
#[tokio::test]
async fn sources_that_ask_for_time_get_it() {
    let fetcher = Fetcher::new(local(), true, LIMITS).expect("authorities");
    for (answer, expected) in [
        ("HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n\r\n", Some(7)),
        ("HTTP/1.1 503 Unavailable\r\nretry-after: 86400\r\n\r\n", Some(3600)),
        ("HTTP/1.1 503 Unavailable\r\nretry-after: Fri, 31 Dec 2199 23:59:59 GMT\r\n\r\n", Some(3600)),
        ("HTTP/1.1 503 Unavailable\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n", None),
        ("HTTP/1.1 503 Unavailable\r\nretry-after: soon\r\n\r\n", None),
        ("HTTP/1.1 404 Not Found\r\n\r\n", None),
    ] {
        let (addr, _closures) = stall(answer).await;
        match read(&fetcher, &format!("http://{addr}/")).await {
            Err(Failure::Temporary { after, .. }) => {
                assert_eq!(after, expected.map(Duration::from_secs), "{answer}");
            }
            other => panic!("{answer}: {other:?}"),
        }
    }
}
