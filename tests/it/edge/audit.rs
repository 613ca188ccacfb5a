//! The audit trail: each event has its fields, and one id ties the events of a session together.

use serde_json::json;
use uuid::Uuid;
use warden::audit_trail::{SESSION_LINES, TokenHash};

use super::behind_a_proxy;
use crate::harness::{Client, LogCapture, Upgrade, eventually, handshake, token};

/// Value of a field, if the line has it.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split(&format!(" {name}=")).nth(1)?;
    Some(match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split_whitespace().next()?,
    })
}

#[tokio::test]
async fn every_event_has_its_fields() {
    let logs = LogCapture::begin();
    let t = behind_a_proxy(|_| {}).await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let user = format!("auditor\n{}", Uuid::new_v4());
    let shown_user = user.replace('\n', "\\n");
    // The filters are those of the token: the values of the claims that they name are not logged.
    let filters = r#"{"calls":"agent_id=eq.$app_metadata.agent"}"#;
    let signed = json!({"calls": "agent_id=eq.$app_metadata.agent"});
    let metadata = json!({"org_id": org, "agent": "personal data", "warden_filters": signed});
    let first = token(org, &json!({"sub": user, "app_metadata": metadata}));
    // The second one has other filters.
    let fresh = r#"{"calls":"status=eq.done"}"#;
    let metadata = json!({"org_id": org, "warden_filters": {"calls": "status=eq.done"}});
    let second = token(org, &json!({"sub": user, "jti": "2", "app_metadata": metadata}));
    let stranger = token(org, &json!({"sub": "somebody else"}));
    let bad = token(org, &json!({"sub": user, "exp": 1_000_000_000}));
    let address = "2001:db8:a0d1::7";

    let refused = Upgrade::bearer(&bad).with("X-Forwarded-For", address).send(addr).await;
    assert_eq!(refused.status, 401);
    let headers = [("authorization", &*format!("Bearer {first}")), ("x-forwarded-for", address)];
    let (socket, _) = handshake(addr, "/socket/websocket?vsn=2.0.0", &headers).await.expect("is let in");
    let mut client = Client::new(socket);
    client.push("phoenix", "access_token", json!({"access_token": second})).await;
    client.push("phoenix", "access_token", json!({"access_token": bad})).await;
    let push = json!([null, "9", "phoenix", "access_token", {"access_token": stranger}]);
    client.send(&push.to_string()).await;
    client.expect_close(4403).await;
    drop(client);

    // The session's events, found by this test's address.
    eventually("the end of the session is logged", async || {
        !logs.lines_with(&[address, "session ended"]).is_empty()
    })
    .await;
    let lines = logs.lines_with(&[address, "warden::audit_trail"]);
    let hash = |token: &str| TokenHash::of(token).to_string();
    let expected = [
        ("reject", "upgrade rejected", Some(hash(&bad)), Some("token_expired")),
        ("accept", "upgrade accepted", Some(hash(&first)), None),
        ("refresh", "token refreshed", Some(hash(&second)), None),
        ("refresh_reject", "token refresh rejected", Some(hash(&bad)), None),
        ("refresh_reject", "token refresh rejected", Some(hash(&stranger)), None),
        ("end", "session ended", None, Some("4403")),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    let session = field(&lines[1], "session.id").expect("an id");
    assert!(session.parse::<Uuid>().is_ok(), "{session}");
    for (line, (action, message, token_hash, code)) in lines.iter().zip(&expected) {
        assert_eq!(field(line, "action"), Some(*action), "{line}");
        assert!(line.contains(message), "{line}");
        assert_eq!(field(line, "address"), Some(address), "{line}");
        assert_eq!(field(line, "token.hash"), token_hash.as_deref(), "{line}");
        assert_eq!(field(line, "code"), *code, "{line}");
        let logs = |filters: &str| line.contains(&filters.replace('"', "\\\""));
        assert_eq!((logs(filters), logs(fresh)), (*action == "accept", *action == "refresh"), "{line}");
        assert!(!line.contains("personal data"), "{line}");
        if *action == "reject" {
            assert!(line.contains("token expired"), "{line}");
            continue;
        }
        assert_eq!(field(line, "session.id"), Some(session), "{line}");
        assert_eq!(field(line, "org.id"), Some(&*org.to_string()), "{line}");
        // Line breaks in a value are escaped, so the event stays on one line.
        assert_eq!(field(line, "user.id"), Some(&*shown_user), "{line}");
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_flood_of_rejections_is_logged_with_a_rate_limit() {
    let logs = LogCapture::begin();
    let t = behind_a_proxy(|config| {
        config.limits.admission.handshakes_per_address = warden::rate::Rate::new(1, 1);
    })
    .await;
    let address = "2001:db8:a0d2::7";
    for _ in 0..300 {
        Upgrade::new().with("X-Forwarded-For", address).send(t.gateway.public_addr()).await;
    }
    let limited = super::reached(&t, "handshakes_per_address");
    let logged = logs.lines_with(&[address, "upgrade rejected", "handshakes_per_address"]).len();
    assert!(limited > 200 && (50..200).contains(&logged), "{logged} of {limited} were logged");
    assert!(
        !logs.lines_with(&[address, " unlogged="]).is_empty() || logged <= 51,
        "the number of unlogged rejections is missing"
    );
    t.gateway.stop().await;
}

/// One socket sends bad tokens and joins with cursors that resync, as fast as its rate allows. Its lines are
/// limited, what was left out is counted, and the lines of other organisations are not left out.
#[tokio::test]
async fn the_lines_that_one_session_causes_are_limited_and_counted() {
    const MESSAGES: usize = 120;
    let logs = LogCapture::begin();
    let t = behind_a_proxy(|config| config.limits.replay.resumes_max = 0).await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let addr = t.gateway.public_addr();
    let bad = token(org, &json!({"exp": 1_000_000_000}));
    let mut client = Client::connect(addr, &token(org, &json!({}))).await;
    let since = client.join("recordings").await["cursor"].clone();
    for n in 0..MESSAGES {
        client.push("phoenix", "access_token", json!({"access_token": bad})).await;
        client.join_with("calls", json!({"since": since})).await;
        if n > 0 {
            client.expect_event("calls", "phx_close").await;
        }
        client.expect_event("calls", "warden.resync").await;
    }
    let mut witness = Client::connect(addr, &token(other, &json!({}))).await;
    let fresh = token(other, &json!({"jti": "2"}));
    witness.push("phoenix", "access_token", json!({"access_token": fresh})).await;
    assert_eq!(logs.lines_with(&[&other.to_string(), "token refreshed"]).len(), 1);

    client.socket.close(None).await.expect("closes");
    let of_org = org.to_string();
    let ended = || logs.lines_with(&[&of_org, "session ended"]);
    eventually("the end is logged", async || !ended().is_empty()).await;
    let logged = logs.lines_with(&[&of_org, "token refresh rejected"]).len()
        + logs.lines_with(&[&of_org, "resume failed"]).len();
    let burst = usize::try_from(SESSION_LINES.burst.get()).expect("few");
    assert!((burst..burst + 60).contains(&logged), "{logged} of {} lines", 2 * MESSAGES);
    let unlogged: usize = logs
        .lines_with(&[&of_org])
        .iter()
        .filter_map(|line| field(line, "unlogged"))
        .map(|count| count.parse::<usize>().expect("a number"))
        .sum();
    assert_eq!(logged + unlogged, 2 * MESSAGES);
    t.gateway.stop().await;
}
