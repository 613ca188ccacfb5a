//! CORS in a browser: a page of an allowed origin reads rows, errors and the document, and a page of another
//! origin reads nothing. Neither publishes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use uuid::Uuid;

use crate::harness::{TestDb, TestGateway, token, within};

const PAGE: &str = include_str!("chromium.html");
/// Names under which distributions install the browser.
const PROGRAMS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// The browser, if one is installed.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    PROGRAMS
        .iter()
        .flat_map(|program| directories.iter().map(move |dir| dir.join(program)))
        .find(|p| p.is_file())
}

/// Serves a page to every request.
async fn serve(listener: TcpListener, page: String) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
            page.len()
        );
        tokio::spawn(async move {
            let _ = read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await? > 0 {}
    Ok(())
}

/// Opens the page in the browser, and returns what it has learned.
async fn open(addr: SocketAddr) -> Value {
    let profile = tempdir();
    let output = Command::new(browser().expect("Chromium is installed: `scripts/setup chromium`"))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{addr}/"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the browser ends", output).await.expect("the browser starts");
    let _ = std::fs::remove_dir_all(&profile);
    let dom = String::from_utf8_lossy(&output.stdout);
    let results = dom.split_once("BEGIN{").and_then(|(_, rest)| rest.split_once("}END"));
    let (results, _) = results.unwrap_or_else(|| panic!("no results: {dom}"));
    let text = format!("{{{results}}}").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn tempdir() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("creates");
    dir
}

#[tokio::test]
#[ignore = "needs Chromium, which `make cors` installs"]
async fn pages_in_chromium_read_what_their_origin_may_and_never_publish() {
    let mut pages = Vec::new();
    for _ in 0..2 {
        pages.push(TcpListener::bind("127.0.0.1:0").await.expect("binds"));
    }
    let origins: Vec<SocketAddr> = pages.iter().map(|page| page.local_addr().expect("an address")).collect();
    let allowed = format!("http://{}", origins[0]);
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.allowed_origins = vec![allowed.clone()];
    })
    .await;
    let org = t.db.create_org().await;
    for _ in 0..2 {
        t.db.insert_call(org).await;
    }
    let gateway = format!("http://{}", t.gateway.public_addr());
    // A token with which a back end may publish, so that only the browser and the gateway's origins decide.
    let token = token(org, &json!({"role": "service_role"}));
    let page = PAGE.replace("GATEWAY", &gateway).replace("TOKEN", &token);
    for listener in pages {
        tokio::spawn(serve(listener, page.clone()));
    }

    let seen = open(origins[0]).await;
    let of = |name: &str| (seen[name]["status"].clone(), seen[name]["body"]["code"].clone());
    assert_eq!(seen["rows"]["status"], 200, "{seen:#}");
    assert_eq!(
        (&seen["rows"]["body"]["total"], seen["rows"]["headers"]["link"].is_string()),
        (&json!(2), true)
    );
    assert_eq!(seen["rows"]["headers"]["preference-applied"], "count=exact", "{seen:#}");
    assert!(
        seen["row"]["body"]["id"].is_string() && seen["row"]["headers"]["warden-cursor"].is_string(),
        "{seen:#}"
    );
    assert_eq!(seen["same_row"]["status"], 304, "{seen:#}");
    assert_eq!(of("no_token"), (json!(401), json!("no_token")), "{seen:#}");
    assert_eq!(of("unknown_topic"), (json!(404), json!("unknown_topic")), "{seen:#}");
    assert_eq!(seen["document"]["body"]["openapi"], "3.1.0", "{seen:#}");
    assert!(seen["covers"]["status"].is_number(), "{seen:#}");
    for rejected in ["publish", "simple_publish", "other_header", "cookies"] {
        assert_eq!(seen[rejected], json!({"error": "TypeError"}), "{rejected}: {seen:#}");
    }

    let seen = open(origins[1]).await;
    let attempts = seen.as_object().expect("an object");
    assert_eq!(attempts.len(), 11);
    for (name, seen) in attempts {
        assert_eq!(*seen, json!({"error": "TypeError"}), "{name}");
    }
    let forged: i64 = sqlx::query_scalar("select count(*) from warden.events where event = 'call.forged'")
        .fetch_one(&t.db.pool)
        .await
        .expect("counts");
    assert_eq!(forged, 0);
    t.gateway.stop().await;
}
