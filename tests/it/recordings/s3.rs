//! Stores recordings in a real S3 server (moto, from PyPI), whose connections are cut at random.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use warden_testkit::{Gate, TcpProxy, eventually, free_port};

use super::source::{size, wav};
use super::{Suite, log};

const BUCKET: &str = "recordings";
const RECORDINGS: usize = 200;

/// The server, which ends with the test.
async fn serve() -> (Child, SocketAddr) {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/moto/bin/moto_server");
    assert!(server.exists(), "moto is not installed: run `scripts/setup moto` (`make recordings-s3` does)");
    let addr = free_port();
    let mut command = Command::new(server);
    command.args(["-H", "127.0.0.1", "-p", &addr.port().to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().expect("starts");
    eventually("the S3 server is up", async || TcpStream::connect(addr).await.is_ok()).await;
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let create =
        format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(create.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (child, addr)
}

/// Every good recording is stored once, byte for byte, although connections to the store are cut all the
/// time, and nothing of a bad one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs moto: make recordings-s3"]
async fn recordings_reach_an_s3_server_whose_connections_are_cut() {
    let (_server, addr) = serve().await;
    let proxy = TcpProxy::start(vec![addr]).await;
    let suite = Suite::start(3).await;
    let mut expected = BTreeMap::new();
    for number in 0..RECORDINGS {
        let org = suite.orgs[number % 3];
        let kind = if number % 10 == 9 { "truncated" } else { "good" };
        let queued = suite.queue(org, kind, number).await;
        if kind == "good" {
            expected.insert(format!("live/org/{org}/recordings/{}", queued.recording), number);
        }
    }
    let cuts = Arc::new(AtomicU32::new(0));
    let is_cutting = Arc::new(AtomicBool::new(true));
    let (counter, goes_on, of_cuts) = (Arc::clone(&cuts), Arc::clone(&is_cutting), proxy.clone());
    let cutting = tokio::spawn(async move {
        while goes_on.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
            for gate in of_cuts.gates() {
                if fastrand::bool() {
                    gate.send_replace(if fastrand::bool() { Gate::Reset } else { Gate::Cut });
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let endpoint = format!("http://{}", proxy.addr());
    let variables = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test-secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("WARDEN_RECORDINGS_STORE", "s3://recordings/live"),
    ];
    let mut worker = suite.worker_with(&["--until-idle"], &variables).await;
    // Until idle means that no work is due now: rows that wait for another attempt are left.
    while suite.open_jobs().await > 0 {
        assert!(worker.wait().await.success(), "{}", log(&suite.log()));
        worker = suite.worker_with(&["--until-idle"], &variables).await;
    }
    worker.wait().await;
    is_cutting.store(false, Ordering::Relaxed);
    cutting.await.expect("no panic");

    let store = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_access_key_id("test")
        .with_secret_access_key("test-secret")
        .with_region("us-east-1")
        .with_endpoint(format!("http://{addr}"))
        .with_allow_http(true)
        .build()
        .expect("a store");
    let stored: Vec<_> = store.list(None).map(|meta| meta.expect("lists").location).collect().await;
    assert_eq!(stored.len(), expected.len());
    for path in stored {
        let number = expected.remove(path.as_ref()).unwrap_or_else(|| panic!("{path} is no recording"));
        let bytes = store.get(&path).await.expect("reads").bytes().await.expect("reads");
        assert!(bytes == wav(number, size(number)), "{path}");
    }
    let cuts = cuts.load(Ordering::Relaxed);
    println!("{RECORDINGS} recordings, {cuts} cut connections");
    assert!(cuts > 10, "{cuts}");
    assert!(!log(&suite.log()).contains("test-secret"));
}
