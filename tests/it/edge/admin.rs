//! The admin listener answers only to hosts that no page of an attacker can have (DNS rebinding).

use warden::http::AdminHosts;

use crate::harness::{Answer, TestDb, TestGateway, Upgrade};

async fn get(t: &TestGateway, path: &str, host: &str) -> Answer {
    let request = Upgrade::new().to(path).without("Upgrade").without("Connection").without("Host");
    request.with("Host", host).send(t.gateway.admin_addr()).await
}

#[tokio::test]
async fn the_admin_listener_shows_metrics_only_under_an_allowed_host() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.edge.admin_hosts = AdminHosts::parse(&["warden.monitoring.svc".to_owned()]).expect("a name");
    })
    .await;
    // Prometheus and the probes of Kubernetes send the address of the pod.
    for host in ["127.0.0.1:4001", "10.1.2.3:4001", "[::1]", "localhost", "warden.monitoring.svc:4001"] {
        let answer = get(&t, "/metrics", host).await;
        assert!(answer.status == 200 && answer.body.contains("warden_sessions"), "{host}: {answer:?}");
    }
    for host in ["evil.example", "evil.example:4001", "127.0.0.1.evil.example", "x@127.0.0.1", ""] {
        for path in ["/metrics", "/console", "/", "/metrics/"] {
            let answer = get(&t, path, host).await;
            assert_eq!((answer.status, answer.code().as_str()), (421, "host_not_allowed"), "{host} {path}");
            assert!(answer.message().contains("WARDEN_ADMIN_HOSTS"), "{answer:?}");
        }
        // Probes may use any name.
        assert_eq!(get(&t, "/livez", host).await.status, 200, "{host}");
        assert_ne!(get(&t, "/readyz", host).await.status, 421, "{host}");
    }
    assert_eq!(get(&t, "/console", "localhost").await.status, 404);
    t.gateway.stop().await;
}
