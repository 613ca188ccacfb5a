//! Several servers, and poolers, each with TLS of its own.

use std::time::Duration;

use serde_json::json;
use warden::app::Gateway;

use crate::harness::{
    Client, LogCapture, Pooler, TestGateway, TlsServer, Upgrade, Validity, eventually, token,
};

async fn readyz(gateway: &Gateway) -> (u16, String) {
    let request = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let answer = request.send(gateway.admin_addr()).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_failover_leads_only_to_servers_with_a_certificate_of_their_own_name() {
    let logs = LogCapture::begin();
    let (first, second, misnamed) =
        tokio::join!(TlsServer::start(), TlsServer::start_initialised(), TlsServer::start());
    let mut roots = String::new();
    for (server, name) in
        [(&first, "first.example"), (&second, "second.example"), (&misnamed, "first.example")]
    {
        server.use_certificate(server.authority.issue(&[name], "server", Validity::Now)).await;
        roots.push_str(&server.authority.pem);
    }
    // The same organisation in all of them, as after a restore.
    let org = first.db.create_org().await;
    for server in [&second, &misnamed] {
        server.db.run(format!("insert into organizations (id, name) values ('{org}', 'restored')")).await;
    }
    let url = format!(
        "postgres://warden_gateway@misnamed.example,first.example,second.example/{}?hostaddr={},{},{}\
         &sslmode=verify-full&sslrootcert={}",
        first.db.name(),
        misnamed.ip,
        first.ip,
        second.ip,
        misnamed.file("roots.crt", &roots)
    );
    let gateway = TestGateway::gateway(&first.db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
        config.limits.tailer.reconnect_max = Duration::from_millis(200);
    })
    .await;
    let mut client = Client::connect(gateway.public_addr(), &token(org, &json!({}))).await;
    client.join("calls").await;
    let call = first.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());

    first.cluster.close().await.expect("closes");
    assert_eq!(client.expect_event("calls", "warden.resync").await.payload["reason"], "epoch");
    let call = second.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    for name in ["first", "second"] {
        let address = format!("\"{name}.example:5432\"");
        let lines = logs.lines_with(&["negotiated", &address, "certificate and host name verified"]);
        assert_eq!(lines.len(), 1, "{}", logs.text());
    }
    assert!(logs.lines_with(&["negotiated", "misnamed.example"]).is_empty(), "{}", logs.text());

    second.cluster.close().await.expect("closes");
    eventually("readyz gives the reason for each address", async || {
        let (status, body) = readyz(&gateway).await;
        status == 503
            && body.contains("first.example:5432: connection refused")
            && body.contains("misnamed.example:5432: the server's certificate is not valid for the host name")
    })
    .await;
    gateway.stop().await;
    misnamed.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn a_pooler_may_use_tls_on_both_sides() {
    let server = TlsServer::start().await;
    let org = server.db.create_org().await;
    let (certificate, key) = server.authority.issue(&["localhost"], "pooler", Validity::Now);
    let files = (server.file("pooler.crt", &certificate), server.file("pooler.key", &key));
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start_with_tls(&server, mode, &files).await;
        let roots = server.path("ca.crt");
        let gateway = TestGateway::gateway(&server.db, |config| {
            let url = pooler.tls_url(server.db.name(), "warden_gateway", &roots);
            config.database = warden::postgres::options(&url).expect("a URL");
            config.limits.tailer.poll_interval = Duration::from_millis(200);
        })
        .await;
        let mut client = Client::connect(gateway.public_addr(), &token(org, &json!({}))).await;
        client.join("calls").await;
        let call = server.db.insert_call(org).await;
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
        let sessions = "select count(*) filter (where not ssl), count(*) from pg_stat_ssl
                        join pg_stat_activity using (pid) where usename = 'warden_gateway'";
        let (plain, all): (i64, i64) =
            sqlx::query_as(sessions).fetch_one(&server.db.pool).await.expect("reads");
        assert!(plain == 0 && all >= 1, "{mode}: {plain} of {all} sessions in plain text");
        let url = pooler.tls_url(server.db.name(), "warden_gateway", &roots);
        super::expect(
            &url.replace("localhost", "elsewhere"),
            Err("is not valid for the host name elsewhere"),
        )
        .await;
        super::expect(
            &format!("{}&channel_binding=require", url.replace("gateway@", "gateway:p@")),
            Err("does not offer SCRAM-SHA-256-PLUS"),
        )
        .await;
        gateway.stop().await;
    }
    server.cluster.close().await.expect("closes");
}
