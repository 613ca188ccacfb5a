//! TLS to the database: what each `sslmode` accepts from which server, and what the log says.

mod binding;
mod certificates;
mod commands;
mod servers;

use sqlx::Connection as _;
use sqlx::PgConnection;
use warden::postgres::reading_options;

use crate::harness::{LogCapture, TlsServer};

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Connects by this URL. Returns whether the session uses TLS, or the error.
async fn connect(url: &str) -> Result<bool, String> {
    let link = reading_options(url).await.map_err(|error| format!("{error:#}"))?;
    let mut connection = PgConnection::connect_with(&link).await.map_err(|error| error.to_string())?;
    let is_tls = sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| error.to_string());
    connection.close().await.expect("closes");
    is_tls
}

/// Asserts the outcome of a connection: whether it uses TLS, or a part of the error.
async fn expect(url: &str, expected: Result<bool, &str>) {
    match (connect(url).await, expected) {
        (Ok(is_tls), Ok(expected)) => assert_eq!(is_tls, expected, "{url}"),
        (Err(error), Err(part)) => assert!(error.contains(part), "{url}: {error}"),
        (outcome, expected) => panic!("{url}: {outcome:?}, not {expected:?}"),
    }
}

#[tokio::test]
async fn each_mode_uses_what_the_server_offers() {
    let logs = LogCapture::begin();
    let server = TlsServer::start().await;
    let plain = TlsServer::start_plain().await;
    let roots = format!("&sslrootcert={}", server.path("ca.crt"));
    for mode in MODES {
        let parameters = format!("sslmode={mode}{roots}");
        let is_tls = !["disable", "allow"].contains(&mode);
        expect(&server.url("either", &parameters), Ok(is_tls)).await;
        let is_strict = ["require", "verify-ca", "verify-full"].contains(&mode);
        let expected =
            if is_strict { Err("the server offers no TLS, which sslmode requires") } else { Ok(false) };
        expect(&plain.url("either", &parameters), expected).await;
        let expected = if mode == "disable" { Err("no pg_hba.conf entry") } else { Ok(true) };
        expect(&server.url("only_tls", &parameters), expected).await;
        let expected = if is_strict { Err("no pg_hba.conf entry") } else { Ok(false) };
        expect(&server.url("only_plain", &parameters), expected).await;
    }
    // The default is `prefer`, and the password reaches both kinds of server.
    expect(&server.url("by_password", ""), Ok(true)).await;
    expect(&plain.url("by_password", ""), Ok(false)).await;
    let lines = |server: &TlsServer, texts: &[&str]| {
        let ip = format!("\"{}:5432\"", server.ip);
        logs.lines_with(&[&["database connection negotiated", &ip], texts].concat()).len()
    };
    assert!(lines(&server, &["TLSv1.3 with TLS13_AES", "certificate not verified"]) > 0, "{}", logs.text());
    assert!(lines(&server, &["certificate verified, host name not"]) > 0, "{}", logs.text());
    assert!(lines(&server, &["certificate and host name verified"]) > 0, "{}", logs.text());
    assert!(lines(&server, &["none (sslmode=disable)"]) > 0, "{}", logs.text());
    assert!(lines(&server, &["none (the server rejects TLS)"]) > 0, "{}", logs.text());
    assert!(lines(&plain, &["none (the server offers no TLS)"]) > 0, "{}", logs.text());
    // There is nothing to encrypt, so nothing is between sqlx and the server.
    let link = reading_options(&plain.url("either", "")).await.expect("a URL");
    assert_eq!((link.get_host(), link.get_socket()), (plain.ip.to_string().as_str(), None));
    let lasting = link.lasting();
    assert!(lasting.get_socket().is_some(), "a pool must notice when the server begins to offer TLS");
    server.cluster.close().await.expect("closes");
    plain.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn versions_are_limited_as_configured() {
    let server = TlsServer::start().await;
    expect(&server.url("either", "sslmode=require&ssl_max_protocol_version=TLSv1.2"), Ok(true)).await;
    server.set("ssl_max_protocol_version", "TLSv1.2").await;
    expect(&server.url("either", "sslmode=require"), Ok(true)).await;
    let url = server.url("either", "sslmode=require&ssl_min_protocol_version=TLSv1.3");
    expect(&url, Err("TLS")).await;
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn each_address_is_verified_for_itself() {
    let server = TlsServer::start().await;
    let plain = TlsServer::start_plain().await;
    let other = TlsServer::start().await;
    let url = |hosts: &str, parameters: &str| {
        let (db, roots) = (server.db.name(), server.path("ca.crt"));
        format!("postgres://either@{hosts}/{db}?sslrootcert={roots}&{parameters}")
    };
    // The addresses without TLS, and with a certificate of another authority, are never used.
    let hosts = format!("{},{},{}", plain.ip, other.ip, server.ip);
    let link = warden::postgres::primary_options(&url(&hosts, "sslmode=verify-full"))
        .await
        .expect("finds the primary");
    let mut connection = PgConnection::connect_with(&link).await.expect("connects");
    let (ip, is_tls): (String, bool) =
        sqlx::query_as("select host(inet_server_addr()), ssl from pg_stat_ssl where pid = pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .expect("reads");
    assert_eq!((ip, is_tls), (server.ip.to_string(), true));
    connection.close().await.expect("closes");

    let hosts = format!("{},{}", plain.ip, other.ip);
    let error =
        warden::postgres::primary_options(&url(&hosts, "sslmode=verify-full")).await.expect_err("insecure");
    let error = format!("{error:#}");
    for part in [
        format!("{}:5432: the server offers no TLS", plain.ip),
        format!("{}:5432: the server's certificate is not signed by an authority in", other.ip),
    ] {
        assert!(error.contains(&part), "{error}");
    }
    for server in [server, plain, other] {
        server.cluster.close().await.expect("closes");
    }
}
