//! Servers that cannot be reached: each error names the address or the file that was tried, and no password.

use sqlx::postgres::PgConnectOptions;

use super::{SECRET, fails, run, warden};
use crate::harness::{TestDb, TlsServer};

const PASSWORD: &str = "hunter2-hunter2";

/// Asserts that the commands that read and that write name the same cause.
async fn all_name(url: &str, expected: &[&str]) {
    for (args, code) in [(&["migrate"][..], 1), (&["migrate", "--plan"], 1), (&["audit"], 2)] {
        let shown = [&["error: cannot connect to DATABASE_URL: "], expected].concat();
        fails(args, &[("DATABASE_URL", url)], code, &shown, &[PASSWORD]).await;
    }
}

#[tokio::test]
async fn an_error_names_the_address_that_was_tried() {
    let db = TestDb::create().await;
    let dir = db.socket_dir().display().to_string();
    let options: PgConnectOptions = db.url().parse().expect("a URL");
    let (name, port) = (&db.name, options.get_port());
    let missing = "no server has created this socket: check its directory and the port";
    let login = format!("user=someone&password={PASSWORD}");
    for (url, expected) in [
        (
            format!("postgres:///{name}?host=/nowhere/run&{login}"),
            format!("/nowhere/run/.s.PGSQL.5432: {missing}"),
        ),
        (format!("postgres:///{name}?host={dir}/&port=1&{login}"), format!("{dir}/.s.PGSQL.1: {missing}")),
        (format!("host={dir} port=1 password={PASSWORD}"), format!("{dir}/.s.PGSQL.1: {missing}")),
        (
            format!("postgres:///{name}?host={dir}&port={port}&{login}"),
            format!("{dir}/.s.PGSQL.{port}: role \"someone\" does not exist"),
        ),
        (
            format!("postgres:///absent?host={dir}&port={port}&user=postgres&password={PASSWORD}"),
            format!("{dir}/.s.PGSQL.{port}: database \"absent\" does not exist"),
        ),
        (
            format!("postgres://someone:{PASSWORD}@127.0.0.1:1/{name}"),
            "127.0.0.1:1: connection refused".into(),
        ),
        (
            format!("postgres://someone:{PASSWORD}@127.0.0.1:1/{name}?sslmode=disable"),
            "127.0.0.1:1: connection refused".into(),
        ),
        (format!("postgres://someone:{PASSWORD}@[::1]:1/{name}"), "[::1]:1: ".into()),
        (
            format!("postgres://someone:{PASSWORD}@no-such-host.invalid/{name}"),
            "no-such-host.invalid:5432: failed to lookup address".into(),
        ),
    ] {
        all_name(&url, &[&expected]).await;
    }
    // Of several addresses, each one with its reason.
    let several = format!("postgres://someone:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/{name}");
    all_name(&several, &["127.0.0.1:1: connection refused", "127.0.0.1:2: connection refused"]).await;
    // The gateway keeps trying, and logs the same.
    let url = format!("postgres:///{name}?host=/nowhere/run&{login}");
    let line = first_warning(&url).await;
    assert!(line.contains(&format!("/nowhere/run/.s.PGSQL.5432: {missing}")), "{line}");
    assert!(!line.contains(PASSWORD), "{line}");
}

/// The first warning of a gateway.
async fn first_warning(url: &str) -> String {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let any = "127.0.0.1:0";
    let variables = [
        ("DATABASE_URL", url),
        ("WARDEN_JWT_SECRET", SECRET),
        ("WARDEN_LISTEN", any),
        ("WARDEN_ADMIN_LISTEN", any),
    ];
    let mut process = warden(&["serve"], &variables).spawn().expect("starts");
    let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
    crate::harness::within("a warning", async {
        while let Some(line) = lines.next_line().await.expect("reads") {
            if line.contains("WARN") {
                return line;
            }
        }
        panic!("the gateway ended")
    })
    .await
}

#[tokio::test]
async fn an_error_names_the_file_that_was_tried() {
    let server = TlsServer::start().await;
    let missing = server.path("no-such-file.pem");
    let text = server.file("text.pem", PASSWORD);
    let (certificate, _) = server.authority.issue(&[], "either", crate::harness::Validity::Now);
    let certificate = server.file("client.crt", &certificate);
    for (parameter, file, expected) in [
        ("sslmode=verify-full&sslrootcert", &missing, "No such file or directory"),
        ("sslmode=verify-ca&sslrootcert", &text, "no certificate"),
        ("sslkey=client.key&sslcert", &missing, "No such file or directory"),
        (&format!("sslcert={certificate}&sslkey"), &missing, "No such file or directory"),
    ] {
        let url =
            format!("postgres://either:{PASSWORD}@{}/{}?{parameter}={file}", server.ip, server.db.name());
        let outcome = run(&["audit"], &[("DATABASE_URL", &url)]).await;
        let name = parameter.rsplit('&').next().expect("a name");
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        for part in [name, expected, file] {
            assert!(outcome.stderr.contains(part), "{parameter} lacks {part}: {outcome:?}");
        }
        assert!(!outcome.stderr.contains(PASSWORD), "{outcome:?}");
    }
    // TLS that the server does not offer, or whose certificate is another one's.
    let proxy = crate::harness::PostgresProxy::start(&TestDb::create().await.socket_dir()).await;
    let plain = format!("postgres://postgres:{PASSWORD}@{}/postgres?sslmode=require", proxy.host());
    all_name(&plain, &[&format!("{}: ", proxy.host()), "TLS"]).await;
    let other = format!(
        "postgres://only_tls:{PASSWORD}@localhost/{}?hostaddr={}&sslmode=verify-full&sslrootcert={}",
        server.db.name(),
        server.ip,
        server.file("another.crt", &crate::harness::Authority::new("another").pem)
    );
    all_name(&other, &["localhost:5432: ", "certificate"]).await;
    server.cluster.close().await.expect("closes");
}
