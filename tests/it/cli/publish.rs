//! `warden publish`: one event, lines of standard input, repeated requests, and errors.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use uuid::Uuid;
use warden::auth::VerifierConfig;
use warden::config::BACKEND_ISSUER;

use super::{Outcome, fails, run, warden};
use crate::harness::{TestDb, TestGateway, eventually, token, within};

const BACKEND_SECRET: &str = "a secret of back ends, of more than 32 bytes";

/// A gateway with the topic `invoices`, and an organisation.
async fn start() -> (TestGateway, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("select warden.declare_topic('invoices')").await;
    let t = TestGateway::start_with(db, |config| {
        let of_backends = VerifierConfig::hs256(BACKEND_SECRET, BACKEND_ISSUER, Some(BACKEND_ISSUER));
        config.verifier.issuers[0].issuer = Some("users".into());
        config.verifier.issuers.extend(of_backends.issuers);
        config.verifier.issuers[1].rules.backends_only = true;
    })
    .await;
    (t, org)
}

fn service(org: Uuid) -> String {
    token(org, &json!({"sub": "billing", "role": "service_role", "iss": "users"}))
}

/// Starts the command.
fn spawn(addr: SocketAddr, jwt: &str, args: &[&str]) -> Child {
    let url = format!("ws://{addr}/socket");
    let args = [&["publish"], args].concat();
    let mut command = warden(&args, &[("WARDEN_URL", &url), ("WARDEN_TOKEN", jwt)]);
    command.stdin(Stdio::piped()).spawn().expect("starts")
}

/// Waits for the end of the command.
async fn end(child: Child, jwt: &str) -> Outcome {
    let output = within("the end of the command", child.wait_with_output()).await.expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stdout.contains(jwt) && !stderr.contains(jwt), "{stdout}{stderr}");
    Outcome { code: output.status.code(), stdout, stderr }
}

/// Runs the command with this standard input.
async fn publish(addr: SocketAddr, jwt: &str, args: &[&str], input: &str) -> Outcome {
    let mut child = spawn(addr, jwt, args);
    let mut stdin = child.stdin.take().expect("is piped");
    let input = input.to_owned();
    // The command may end before it has read everything.
    let write = async move { stdin.write_all(input.as_bytes()).await.ok() };
    tokio::join!(end(child, jwt), write).0
}

/// The answer of a successful run.
fn answer(outcome: &Outcome) -> Value {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

/// Numbers of the published events, in order.
async fn published(db: &TestDb) -> Vec<i64> {
    sqlx::query_scalar("select (data->>'n')::bigint from warden.events where topic = 'invoices' order by id")
        .fetch_all(&db.pool)
        .await
        .expect("queries")
}

fn lines(numbers: std::ops::Range<i64>) -> String {
    let line =
        |n| format!("{{\"topic\": \"invoices\", \"event\": \"invoice.paid\", \"data\": {{\"n\": {n}}}}}\n");
    numbers.map(line).collect()
}

#[tokio::test]
async fn an_event_and_lines_are_published_once_under_their_key() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    let one = [
        "--topic",
        "invoices",
        "--event",
        "invoice.paid",
        "--data",
        "{\"n\": 0}",
        "--idempotency-key",
        "one",
    ];
    let first = answer(&publish(addr, &jwt, &one, "").await);
    assert!(first["events"][0]["id"].is_i64() && first["cursor"].is_string(), "{first}");
    let second = answer(&publish(addr, &jwt, &one, "").await);
    assert_eq!(
        (&second["events"][0]["id"], &second["events"][0]["duplicate"]),
        (&first["events"][0]["id"], &json!(true))
    );

    // A run that ended early is repeated with all lines. Blank lines count as lines only.
    let many = ["--batch", "20", "--idempotency-key", "many"];
    let early = answer(&publish(addr, &jwt, &many, &lines(1..21)).await);
    assert_eq!((&early["events"], &early["duplicates"]), (&json!(20), &json!(0)));
    let all = answer(&publish(addr, &jwt, &many, &format!("{}\n{}", lines(1..31), lines(31..52))).await);
    assert_eq!((&all["events"], &all["duplicates"]), (&json!(51), &json!(20)));
    assert_eq!(published(&t.db).await, (0..52).collect::<Vec<_>>());
    // Without a key, lines are sent when the input pauses, and each run publishes them again.
    answer(&publish(addr, &jwt, &[], &lines(52..55)).await);
    let nothing = answer(&publish(addr, &jwt, &[], "\n").await);
    assert_eq!(nothing, json!({"events": 0, "duplicates": 0, "tx": null, "cursor": null}));

    // With the secret of back ends, the command signs its own token.
    let org = org.to_string();
    let args = ["publish", "--org", &org, "--topic", "invoices", "--event", "a.b", "--data", "{\"n\": 55}"];
    let url = format!("http://{addr}");
    let signed = run(&args, &[("WARDEN_BACKEND_SECRET", BACKEND_SECRET), ("WARDEN_URL", &url)]).await;
    answer(&signed);
    assert_eq!(published(&t.db).await, (0..56).collect::<Vec<_>>());
    t.gateway.stop().await;
}

/// Reaction of the proxy to one request.
enum Step {
    /// Answers instead of the gateway.
    Answer(String),
    /// Forwards the request and the answer, and closes the connection.
    Forward,
    /// Forwards the request and drops the answer, which must be a success.
    DropAnswer,
    /// Forwards the request, and never sends the answer, which must be a success.
    HoldAnswer,
}

/// An answer with this status line, headers and body.
fn raw(status: &str, headers: &str, body: &str) -> Step {
    let length = body.len();
    Step::Answer(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
}

/// An error in the form of a gateway.
fn problem(status: &str, headers: &str) -> Step {
    let headers = format!("content-type: application/problem+json\r\n{headers}");
    raw(status, &headers, "{\"code\": \"a_code\", \"detail\": \"a detail\"}")
}

/// A proxy in front of a gateway. It does these steps with the first requests, and forwards the others.
async fn unreliable(to: SocketAddr, steps: Vec<Step>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut steps, mut held) = (steps.into_iter(), Vec::new());
        loop {
            let (mut client, _) = listener.accept().await.expect("accepts");
            let mut buffer = vec![0; 64 * 1024];
            let read = client.read(&mut buffer).await.expect("reads");
            let step = steps.next();
            if let Some(Step::Answer(answer)) = &step {
                client.write_all(answer.as_bytes()).await.expect("answers");
                continue;
            }
            let mut server = TcpStream::connect(to).await.expect("connects");
            server.write_all(&buffer[..read]).await.expect("forwards");
            if let Some(step) = step {
                let read = server.read(&mut buffer).await.expect("reads");
                assert!(buffer[..read].starts_with(b"HTTP/1.1 202"));
                match step {
                    Step::Forward => client.write_all(&buffer[..read]).await.expect("answers"),
                    Step::HoldAnswer => held.push(client),
                    Step::DropAnswer | Step::Answer(_) => {}
                }
                continue;
            }
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
    addr
}

#[tokio::test]
async fn a_repeated_request_publishes_nothing_twice() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    let busy = raw("429 Too Many Requests", "retry-after: 0\r\n", "");
    let proxy = unreliable(addr, vec![busy, Step::DropAnswer]).await;
    let repeated = answer(&publish(proxy, &jwt, &[], &lines(0..5)).await);
    assert_eq!((&repeated["events"], &repeated["duplicates"]), (&json!(5), &json!(5)));
    assert_eq!(published(&t.db).await, [0, 1, 2, 3, 4]);

    // The command waits for a gateway that is restarted.
    let TestGateway { db, gateway } = t;
    gateway.stop().await;
    let one = ["--topic", "invoices", "--event", "invoice.paid", "--data", "{\"n\": 5}"];
    let outcome = publish(addr, &jwt, &[&one[..], &["--retry-seconds", "0"]].concat(), "").await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    for text in ["no attempt succeeded within 0 s", "is the gateway at"] {
        assert!(outcome.stderr.contains(text), "{outcome:?}");
    }
    assert!(!outcome.stderr.contains("may have been"), "{outcome:?}");
    let (outcome, gateway) = tokio::join!(
        publish(addr, &jwt, &one, ""),
        TestGateway::gateway(&db, |config| {
            config.listen = addr;
            config.verifier.issuers[0].issuer = Some("users".into());
        })
    );
    answer(&outcome);
    assert_eq!(published(&db).await, [0, 1, 2, 3, 4, 5]);
    gateway.stop().await;
}

#[tokio::test]
async fn delays_between_attempts_have_a_minimum_and_no_overflow() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    let busy = |seconds: u64| problem("429 Too Many Requests", &format!("retry-after: {seconds}\r\n"));
    let most = u64::MAX.to_string();
    let many = || (0..20).map(|_| busy(0)).collect();
    for (steps, retry_seconds, code) in [
        // Without a minimum, the 20 attempts would need a few milliseconds.
        (many(), "1", 1),
        (vec![busy(u64::MAX)], "60", 1),
        (vec![busy(0), busy(1)], most.as_str(), 0),
    ] {
        let proxy = unreliable(addr, steps).await;
        let outcome = publish(proxy, &jwt, &["--retry-seconds", retry_seconds], &lines(0..1)).await;
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert_eq!(outcome.stderr.contains("429 Too Many Requests: a detail"), code == 1, "{outcome:?}");
    }
    assert_eq!(published(&t.db).await, [0]);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_rejection_does_not_hide_that_an_earlier_attempt_may_have_published() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    let busy = || problem("429 Too Many Requests", "retry-after: 0\r\n");
    let mut stored = 0;
    for (n, (steps, shown, is_uncertain)) in [
        (vec![Step::DropAnswer, problem("401 Unauthorized", "")], "401 Unauthorized: a detail", true),
        (vec![Step::DropAnswer, busy(), raw("408 Request Timeout", "", "")], "408 Request Timeout", true),
        (vec![problem("503 Service Unavailable", ""), problem("403 Forbidden", "")], "403 Forbidden", true),
        (vec![raw("403 Forbidden", "", "<html>")], "is not a Warden gateway", true),
        (vec![problem("500 Internal Server Error", "")], "500 Internal", true),
        (vec![raw("200 OK", "", "{\"eve")], "200 OK", true),
        (vec![busy(), problem("401 Unauthorized", "")], "401 Unauthorized: a detail", false),
        (vec![problem("429 Too Many Requests", "retry-after: 99\r\n")], "within 60 s", false),
    ]
    .into_iter()
    .enumerate()
    {
        stored += usize::from(matches!(steps[0], Step::DropAnswer));
        let key = format!("key {n}");
        let input = lines(0..1);
        let one = ["--topic", "invoices", "--event", "invoice.paid"];
        let arguments = if n % 2 == 0 { &[][..] } else { &one[..] };
        let arguments = [arguments, &["--idempotency-key", &key]].concat();
        let outcome = publish(unreliable(addr, steps).await, &jwt, &arguments, &input).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        assert!(outcome.stderr.contains(shown), "{shown}: {outcome:?}");
        for text in ["gave up: ", "may ", &key] {
            assert_eq!(outcome.stderr.contains(text), is_uncertain, "{text}: {outcome:?}");
        }
        let (found,): (i64,) = sqlx::query_as("select count(*) from warden.events where topic = 'invoices'")
            .fetch_one(&t.db.pool)
            .await
            .expect("queries");
        assert_eq!(usize::try_from(found), Ok(stored), "{outcome:?}");
    }
    t.gateway.stop().await;
}

/// The command line that an error advises.
fn advised(outcome: &Outcome) -> Vec<&str> {
    let (_, flags) = outcome.stderr.split_once("--from-line").expect("advice");
    let flags = flags.split_once(": it publishes").map_or(flags, |(flags, _)| flags);
    [&["--from-line"], &flags.split_whitespace().collect::<Vec<_>>()[..]].concat()
}

#[tokio::test]
async fn the_flags_in_an_error_publish_what_is_missing_after_pauses() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    let rejected = vec![Step::Forward, Step::DropAnswer, problem("401 Unauthorized", "")];
    let interrupted = vec![Step::Forward, Step::HoldAnswer];
    let mut outcomes = Vec::new();
    for (first, steps, shown) in [(0, rejected, "line 2: 401"), (4, interrupted, "interrupted; 1 event")] {
        let mut child = spawn(unreliable(addr, steps).await, &jwt, &[]);
        let mut stdin = child.stdin.take().expect("is piped");
        for n in first..first + 2 {
            // The input pauses, so each of these lines is a request.
            stdin.write_all(lines(n..n + 1).as_bytes()).await.expect("writes");
            eventually("the line is published", async || published(&t.db).await.contains(&n)).await;
        }
        if first == 4 {
            let pid = i32::try_from(child.id().expect("runs")).expect("a pid");
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
        }
        let outcome = end(child, &jwt).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        for text in [shown, "1 event up to line 1 is published, and line 2 may be", "with the same input"] {
            assert!(outcome.stderr.contains(text), "{text}: {outcome:?}");
        }
        let rest = answer(&publish(addr, &jwt, &advised(&outcome), &lines(first..first + 4)).await);
        assert_eq!((&rest["events"], &rest["duplicates"]), (&json!(3), &json!(1)));
        assert_eq!(published(&t.db).await, (0..first + 4).collect::<Vec<_>>());
        outcomes.push(outcome);
    }
    // Another division under the same key is reported as such.
    let key = *advised(&outcomes[0]).last().expect("a key");
    let reused = publish(addr, &jwt, &["--idempotency-key", key], &lines(0..4)).await;
    assert_eq!(reused.code, Some(1));
    for text in ["409 Conflict", "an earlier run with this key had other lines or another --batch"] {
        assert!(reused.stderr.contains(text), "{text}: {reused:?}");
    }
    assert_eq!(published(&t.db).await.len(), 8);
    t.gateway.stop().await;
}

#[tokio::test]
async fn errors_name_the_line_and_what_was_published() {
    let (t, org) = start().await;
    let (addr, jwt) = (t.gateway.public_addr(), service(org));
    // A line that is not JSON rejects its whole request. So the same command works after a correction.
    let flags = ["--batch", "3", "--idempotency-key", "corrected"];
    let wrong = publish(addr, &jwt, &flags, &format!("{}7\n", lines(0..4))).await;
    for text in ["line 5: it is not a JSON object", "3 events up to line 3 are", "--from-line 4 --batch 3"] {
        assert!(wrong.stderr.contains(text), "{text}: {wrong:?}");
    }
    assert_eq!(published(&t.db).await.len(), 3);
    let corrected = answer(&publish(addr, &jwt, &flags, &lines(0..6)).await);
    assert_eq!((&corrected["events"], &corrected["duplicates"]), (&json!(6), &json!(3)));
    assert_eq!(published(&t.db).await.len(), 6);
    let nowhere = "{\"topic\": \"nowhere\", \"event\": \"a.b\"}\n";
    for (input, shown) in [
        (
            format!("{}{nowhere}{}", lines(0..3), lines(3..4)),
            &[
                "line 4: topic \"nowhere\" does not exist",
                "declare_topic",
                "2 events up to line 2 are published, and this run published nothing after them",
                "--from-line 3 --batch 2 --idempotency-key k6",
            ][..],
        ),
        (
            format!("{}\n{{\"topic\":\n", lines(0..1)),
            &["line 3: it is not JSON", "this run published nothing"],
        ),
        (format!("{}7\n", lines(0..2)), &["line 3: it is not a JSON object", "2 events up to line 2"]),
        (
            "{\"topic\": \"invoices\", \"event\": \"a.b\", \"data\": {\"a\": 1, \"a\": 2}}\n".into(),
            &["line 1: "],
        ),
    ] {
        let before = published(&t.db).await.len();
        let outcome =
            publish(addr, &jwt, &["--batch", "2", "--idempotency-key", &format!("k{before}")], &input).await;
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        for text in shown {
            assert!(outcome.stderr.contains(text), "{text}: {outcome:?}");
        }
        let is_partial = shown.iter().any(|text| text.starts_with("2 events"));
        assert_eq!(published(&t.db).await.len() - before, if is_partial { 2 } else { 0 });
    }
    let url = format!("ws://{addr}/socket");
    let one = ["publish", "--topic", "invoices", "--event", "a.b"];
    let user = token(org, &json!({"iss": "users"}));
    for (jwt, shown) in
        [(&user, &["403", "not a back end's token"]), (&"abc".to_owned(), &["401", "JSON Web Token"])]
    {
        fails(&one, &[("WARDEN_URL", &url), ("WARDEN_TOKEN", jwt)], 1, shown, &[jwt]).await;
    }
    let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", jwt.as_str())];
    fails(&one, &[("WARDEN_URL", &url)], 2, &["WARDEN_TOKEN"], &[]).await;
    fails(&one[..3], &variables, 2, &["--event"], &[&jwt]).await;
    fails(
        &[&one[..], &["--data", "{hunter2"]].concat(),
        &variables,
        2,
        &["--data", "not JSON"],
        &["hunter2"],
    )
    .await;
    fails(&[&one[..], &["--idempotency-key", "ü"]].concat(), &variables, 2, &["printable ASCII"], &[&jwt])
        .await;
    let wrong = [("WARDEN_URL", "postgres://user:hunter2@example.com"), ("WARDEN_TOKEN", jwt.as_str())];
    fails(&one, &wrong, 1, &["WARDEN_URL"], &["hunter2"]).await;
    t.gateway.stop().await;
}
