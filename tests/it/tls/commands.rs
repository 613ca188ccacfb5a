//! The commands and a whole gateway over TLS, with the connection strings that people have.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::{Client, LogCapture, SECRET, TestGateway, TlsServer, eventually, token, within};

/// Runs the binary with these variables only. Returns its exit code and standard error.
async fn warden(command: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_warden"));
    process.arg(command).env_clear().envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the end of the command", process.output()).await.expect("runs");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[tokio::test]
async fn commands_work_with_every_form_of_connection_string() {
    let server = TlsServer::start().await;
    let (ip, db, roots) = (server.ip.to_string(), server.db.name(), server.path("ca.crt"));
    let service =
        server.file("services", &format!("[app]\nhost={ip}\ndbname={db}\nuser=only_tls\nsslmode=require\n"));
    let passwords = server.file("passwords", &format!("{ip}:*:{db}:by_password:p@ss\\:w/rd #1\n"));
    let socket = server.db.socket_dir().display().to_string();
    let by_url = server.url("only_tls", "");
    let by_words = format!("host={ip} dbname={db} user=only_tls sslmode=verify-full sslrootcert='{roots}'");
    let by_socket = format!("postgres://either@/{db}?host={socket}&sslmode=require");
    let by_file = format!("postgres://by_password@{ip}/{db}?passfile={passwords}");
    let by_variables = [
        ("DATABASE_URL", "postgres://"),
        ("PGHOST", &ip),
        ("PGDATABASE", db),
        ("PGUSER", "only_tls"),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", &roots),
    ];
    let by_system = format!("postgres://only_tls@localhost/{db}?hostaddr={ip}&sslrootcert=system");
    for variables in [
        &[("DATABASE_URL", by_url.as_str())][..],
        &[("DATABASE_URL", &by_words)],
        &[("DATABASE_URL", &by_socket)],
        &[("DATABASE_URL", &by_file)],
        &by_variables,
        &[("DATABASE_URL", "service=app"), ("PGSERVICEFILE", &service)],
        &[("DATABASE_URL", &by_system), ("SSL_CERT_FILE", &roots)],
    ] {
        let (code, stderr) = warden("migrate", variables).await;
        assert_eq!(code, Some(0), "{variables:?}: {stderr}");
        let is_socket = variables[0].1.contains("host=/");
        assert!(is_socket || stderr.contains("with TLS13_AES"), "{variables:?}: {stderr}");
    }
    let (code, stderr) = warden("audit", &[("DATABASE_URL", &by_words)]).await;
    assert!(matches!(code, Some(0 | 1)), "{stderr}");
    // Where no other system's authorities are trusted, the certificate is not.
    let empty = crate::harness::Authority::new("another").pem;
    let empty = server.file("another.crt", &empty);
    let (code, stderr) = warden("migrate", &[("DATABASE_URL", &by_system), ("SSL_CERT_FILE", &empty)]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("not signed by an authority of this system"), "{stderr}");
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn a_gateway_delivers_over_tls_and_survives_broken_connections() {
    let logs = LogCapture::begin();
    let server = TlsServer::start().await;
    let org = server.db.create_org().await;
    let roots = format!("sslmode=verify-full&sslrootcert={}", server.path("ca.crt"));
    let gateway = TestGateway::gateway(&server.db, |config| {
        config.database = warden::postgres::options(&server.url("warden_gateway", &roots)).expect("a URL");
        config.limits.tailer.reconnect_max = Duration::from_millis(200);
    })
    .await;
    let mut client = Client::connect(gateway.public_addr(), &token(org, &json!({}))).await;
    client.join("calls").await;
    let expect_call = async |client: &mut Client| {
        let call = server.db.insert_call(org).await;
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    };
    expect_call(&mut client).await;
    let sessions = "select count(*) filter (where not ssl) as plain, count(*) from pg_stat_ssl
                    join pg_stat_activity using (pid) where application_name = 'warden'";
    let (plain, all): (i64, i64) = sqlx::query_as(sessions).fetch_one(&server.db.pool).await.expect("reads");
    assert!(plain == 0 && all >= 2, "{plain} of {all} sessions in plain text");
    server
        .db
        .run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'warden'")
        .await;
    expect_call(&mut client).await;
    let name = format!("\"{}:5432\"", server.ip);
    let lines = logs.lines_with(&["database connection negotiated", &name]);
    assert_eq!(lines.len(), 1, "logged once: {lines:?}");
    gateway.stop().await;
    server.cluster.close().await.expect("closes");
}

#[tokio::test]
async fn connections_end_with_their_server_and_their_client() {
    let server = TlsServer::start().await;
    let link =
        warden::postgres::reading_options(&server.url("either", "sslmode=require")).await.expect("a URL");
    let connection = sqlx::PgConnection::connect_with(&link).await.expect("connects");
    let count = async || {
        let query = "select count(*) from pg_stat_ssl where ssl";
        sqlx::query_scalar::<_, i64>(query).fetch_one(&server.db.pool).await.expect("reads")
    };
    assert_eq!(count().await, 1);
    // Without a word to the server, as when a connection is dropped in the middle of a query.
    drop(connection);
    eventually("the session ends", async || count().await == 0).await;

    let mut connection = sqlx::PgConnection::connect_with(&link).await.expect("connects");
    drop(link);
    sqlx::query("select 1").execute(&mut connection).await.expect("the connection outlives its link");
    server.db.run("select pg_terminate_backend(pid) from pg_stat_ssl where ssl").await;
    let error = sqlx::query("select 1").execute(&mut connection).await.expect_err("the session has ended");
    assert!(error.to_string().contains("terminating connection"), "{error}");
    server.cluster.close().await.expect("closes");
}

/// Every command that connects to the database, with its arguments.
const COMMANDS: [&[&str]; 8] = [
    &["migrate"],
    &["migrate", "--plan"],
    &["migrate", "--platform"],
    &["audit"],
    &["audit", "--json"],
    &["serve"],
    &["worker", "--until-idle", "--store", "target/recordings-of-tests"],
    &["worker", "jobs"],
];

#[tokio::test]
async fn every_command_that_needs_the_database_uses_tls() {
    let server = TlsServer::start().await;
    let roots = format!("sslmode=verify-full&sslrootcert={}", server.path("ca.crt"));
    let (good, other) = (server.url("only_tls", &roots), server.url("only_tls", "sslmode=disable"));
    for args in COMMANDS {
        let settings = [("WARDEN_LISTEN", "127.0.0.1:0"), ("WARDEN_ADMIN_LISTEN", "127.0.0.1:0")];
        let command = |url: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
            command.args(args).env_clear().env("DATABASE_URL", url).env("WARDEN_JWT_SECRET", SECRET);
            command.envs(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            command.kill_on_drop(true).spawn().expect("runs")
        };
        // The server accepts this role only over TLS, so success is a proof.
        let mut process = command(&good);
        expect_line(&mut process, &["database connection negotiated", "certificate and host name verified"])
            .await;
        if args == ["serve"] {
            process.kill().await.expect("ends");
        } else {
            let output = within("the end", process.wait_with_output()).await.expect("runs");
            let is_audit = args[0] == "audit";
            assert!(output.status.success() || is_audit && output.status.code() == Some(1), "{args:?}");
        }
        expect_line(&mut command(&other), &["no pg_hba.conf entry", "no encryption"]).await;
    }
    server.cluster.close().await.expect("closes");
}

/// Reads standard error up to a line with all these texts.
async fn expect_line(process: &mut tokio::process::Child, texts: &[&str]) {
    let mut stderr = BufReader::new(process.stderr.as_mut().expect("it is piped"));
    let mut all = String::new();
    loop {
        let start = all.len();
        let read = within("a line", stderr.read_line(&mut all)).await.expect("text");
        assert!(read > 0, "no line with {texts:?}: {all}");
        if texts.iter().all(|text| all[start..].contains(text)) {
            return;
        }
    }
}

#[tokio::test]
async fn the_list_of_commands_with_a_database_is_complete() {
    let help = |args: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_warden")).args(args).output().expect("runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let all = help(&["--help"]);
    let all =
        all.split("Commands:").nth(1).expect("a list of commands").split("Options:").next().expect("text");
    let names: Vec<&str> = all
        .lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"serve"), "{names:?}");
    for name in names {
        let needs_database = help(&[name, "--help"]).contains("--database-url");
        let is_listed = COMMANDS.iter().any(|args| args[0] == name);
        assert_eq!(needs_database, is_listed, "{name}: add it to COMMANDS, or remove it");
    }
}
