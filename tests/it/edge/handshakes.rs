//! Handshake rate limits, by address and in total, and the delay of failed handshakes.

use std::time::Duration;

use warden::rate::Rate;

use super::{assert_reached, behind_a_proxy, from, reached};
use crate::harness::{Answer, TestDb, TestGateway, Upgrade, eventually};

/// More attempts than any burst in this module.
const TRIES: usize = 50;
/// A small burst, then one per second.
const FEW: Rate = Rate::new(1, 4);

/// Sends requests until one is rejected by a limit. All earlier ones must be accepted.
pub(super) async fn until_limited(
    t: &TestGateway,
    mut request: impl FnMut(usize) -> Upgrade,
) -> (usize, Answer) {
    for n in 0..TRIES {
        let answer = request(n).send(t.gateway.public_addr()).await;
        if answer.status == 429 {
            return (n, answer);
        }
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    panic!("{TRIES} handshakes reached no limit");
}

#[tokio::test]
async fn handshakes_are_limited_per_address() {
    let t = behind_a_proxy(|config| config.limits.admission.handshakes_per_address = FEW).await;
    let org = t.db.create_org().await;
    let (n, answer) = until_limited(&t, |_| from(org, "198.51.100.1")).await;
    assert!(n >= 4, "only {n}");
    assert_reached(&t, &answer, "handshakes_per_address");
    assert_eq!(from(org, "198.51.100.2").send(t.gateway.public_addr()).await.status, 101);
    eventually("there is room again", async || {
        from(org, "198.51.100.1").send(t.gateway.public_addr()).await.status == 101
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn failed_handshakes_and_other_paths_count_too() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.handshakes_per_address = FEW;
    })
    .await;
    for request in [Upgrade::new(), Upgrade::bearer("nonsense"), Upgrade::new().to("/nowhere")] {
        let mut last = None;
        for _ in 0..TRIES {
            let answer = request.send(t.gateway.public_addr()).await;
            let is_limited = answer.status == 429;
            last = Some(answer);
            if is_limited {
                break;
            }
        }
        assert_reached(&t, &last.expect("sent"), "handshakes_per_address");
    }
    // Requests to the admin listener are not limited.
    for _ in 0..TRIES {
        assert_eq!(Upgrade::new().to("/livez").send(t.gateway.public_addr()).await.status, 200);
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_connection_rate_is_limited_per_peer_whatever_it_requests() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.connection_rate_per_address = FEW;
    })
    .await;
    let health = Upgrade::new().to("/livez");
    let mut last = None;
    for _ in 0..TRIES {
        let answer = health.send(t.gateway.public_addr()).await;
        let is_limited = answer.status == 429;
        last = Some(answer);
        if is_limited {
            break;
        }
    }
    assert_reached(&t, &last.expect("sent"), "arrivals_per_address");
    eventually("there is room again", async || health.send(t.gateway.public_addr()).await.status == 200)
        .await;
    t.gateway.stop().await;
    // A trusted proxy connects for many clients and is exempt.
    let t = behind_a_proxy(|config| config.limits.admission.connection_rate_per_address = FEW).await;
    for _ in 0..TRIES {
        assert_eq!(health.send(t.gateway.public_addr()).await.status, 200);
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn handshakes_are_limited_in_total() {
    let t = behind_a_proxy(|config| config.limits.admission.handshakes = FEW).await;
    let org = t.db.create_org().await;
    let (_, answer) = until_limited(&t, |n| from(org, &format!("198.51.100.{n}"))).await;
    assert_reached(&t, &answer, "handshakes");
    assert_eq!(reached(&t, "handshakes_per_address"), 0);
    eventually("there is room again", async || {
        from(org, "198.51.100.99").send(t.gateway.public_addr()).await.status == 101
    })
    .await;
    t.gateway.stop().await;
}

/// Strangers without a token, at more addresses than the limit allows handshakes.
#[tokio::test]
async fn a_flood_from_many_addresses_leaves_handshakes_to_known_ones() {
    let t = behind_a_proxy(|config| config.limits.admission.handshakes = Rate::new(1, 40)).await;
    let (org, addr) = (t.db.create_org().await, t.gateway.public_addr());
    let known = from(org, "192.0.2.1");
    assert_eq!(known.send(addr).await.status, 101);
    let stranger = |n| Upgrade::new().with("X-Forwarded-For", &format!("198.51.100.{n}"));
    let mut limited = 0;
    for n in 0..60 {
        let answer = stranger(n).send(addr).await;
        limited += usize::from(answer.status == 429);
    }
    assert!(limited >= 30, "{limited}");
    for _ in 0..15 {
        assert_eq!(known.send(addr).await.status, 101);
    }
    let answer = from(org, "192.0.2.2").send(addr).await;
    assert_eq!(
        (answer.status, answer.code()),
        (429, "handshakes".to_owned()),
        "its address is not known yet"
    );
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_answer_to_a_failed_handshake_is_delayed_and_delays_no_other_handshake() {
    let t = behind_a_proxy(|config| {
        let admission = &mut config.limits.admission;
        // Practically endless: every answer below was not delayed.
        admission.rejection_delay = Duration::from_hours(1);
        admission.delayed_per_address_max = 2;
        admission.delayed_max = 3;
    })
    .await;
    let (org, addr) = (t.db.create_org().await, t.gateway.public_addr());
    let bad = |address: &str| Upgrade::bearer("nonsense").with("X-Forwarded-For", address);
    let spawn = |address: &str| {
        let request = bad(address);
        tokio::spawn(async move { request.send_within(addr, Duration::from_hours(2)).await })
    };
    let delayed = || t.gateway.metrics().rejections_delayed.get();
    let mut waiting = vec![spawn("198.51.100.1"), spawn("198.51.100.1")];
    eventually("both wait", async || delayed() == 2).await;
    // The address has used up its delayed answers, so its third failure is answered at once and holds no
    // socket.
    assert_eq!(bad("198.51.100.1").send(addr).await.status, 401);
    waiting.push(spawn("198.51.100.2"));
    eventually("another waits", async || delayed() == 3).await;
    assert_eq!(bad("198.51.100.3").send(addr).await.status, 401);
    // Accepted upgrades and the gateway's own errors are not delayed.
    assert_eq!(from(org, "198.51.100.1").send(addr).await.status, 101);
    assert!(waiting.iter().all(|answer| !answer.is_finished()));
    // A gateway that shuts down answers at once.
    let stopped = tokio::spawn(t.gateway.stop());
    for answer in waiting {
        assert_eq!(answer.await.expect("answered").status, 401);
    }
    stopped.await.expect("stops");
}

#[tokio::test]
async fn a_client_that_hangs_up_releases_its_delay_permit() {
    let t = behind_a_proxy(|config| {
        config.limits.admission.rejection_delay = Duration::from_hours(1);
        config.limits.admission.delayed_max = 1;
    })
    .await;
    let addr = t.gateway.public_addr();
    let delayed = || t.gateway.metrics().rejections_delayed.get();
    for n in 1..=3 {
        let waits = tokio::spawn(async move {
            Upgrade::bearer("nonsense").send_within(addr, Duration::from_hours(2)).await
        });
        eventually("it waits", async || {
            // While the previous client holds the permit, this one is answered at once and must try again.
            if waits.is_finished() {
                drop(tokio::time::timeout(Duration::from_millis(50), Upgrade::bearer("x").send(addr)).await);
            }
            delayed() >= n
        })
        .await;
        waits.abort();
    }
    t.gateway.stop().await;
}
