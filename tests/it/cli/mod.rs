//! The binary on the command line: output, streams and exit codes.

mod addresses;
mod publish;
mod rights;
mod tail;

use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::process::Command;
use uuid::Uuid;
use warden::auth::VerifierConfig;
use warden::config::BACKEND_ISSUER;
use warden_devkit::cluster::SUPERUSER;

use crate::harness::{
    Client, Post, SECRET, TestDb, TestGateway, Upgrade, contains_secret, eventually, shared_cluster_url,
    within,
};

/// Creates a command with these environment variables and no others.
fn warden(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) async fn run(args: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let output = within("the end of the command", warden(args, variables).output()).await.expect("runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(!contains_secret(stderr.as_bytes()), "{args:?} prints a secret: {stderr}");
    Outcome { code: output.status.code(), stdout: String::from_utf8(output.stdout).expect("text"), stderr }
}

/// Runs a command and asserts that it fails with this code. Standard error must contain all of `shown` and
/// none of `hidden`; standard output must be empty.
async fn fails(args: &[&str], variables: &[(&str, &str)], code: i32, shown: &[&str], hidden: &[&str]) {
    let outcome = run(args, variables).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{args:?}: {outcome:?}");
    for text in shown {
        assert!(outcome.stderr.contains(text), "{args:?} lacks {text:?}: {outcome:?}");
    }
    for text in hidden.iter().chain(&["panicked", "RUST_BACKTRACE"]) {
        assert!(!outcome.stderr.contains(text), "{args:?} shows {text:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn the_gateway_accepts_tokens_of_the_token_command() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await.to_string();
    let args = ["token", "--org", &org];
    let outcome = run(&args, &[("WARDEN_JWT_SECRET", SECRET)]).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    let jwt = outcome.stdout.strip_suffix('\n').expect("one line");
    assert_eq!(Upgrade::bearer(jwt).send(t.gateway.public_addr()).await.status, 101);

    let other = ("WARDEN_JWT_SECRET", "another secret of more than 32 bytes");
    let outcome = run(&args, &[other]).await;
    let answer = Upgrade::bearer(outcome.stdout.trim()).send(t.gateway.public_addr()).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"));
    let limited =
        run(&[&args[..], &["--topics", "calls,call:*"]].concat(), &[("WARDEN_JWT_SECRET", SECRET)]).await;
    let mut client = Client::connect(t.gateway.public_addr(), limited.stdout.trim()).await;
    client.join("calls").await;
    assert_eq!(client.push("org", "phx_join", json!({})).await.response["reason"], "forbidden topic");
    drop(client);
    let filters = [&args[..], &["--filters", r#"{"calls": "agent_id=eq.$sub"}"#]].concat();
    let signed = run(&filters, &[("WARDEN_JWT_SECRET", SECRET)]).await;
    let mut client = Client::connect(t.gateway.public_addr(), signed.stdout.trim()).await;
    let reply = client.push("recordings", "phx_join", json!({})).await;
    assert_eq!(reply.response["reason"], "forbidden topic", "{reply:?}");
    drop(client);
    let expired = run(&[&args[..], &["--ttl", "0s"]].concat(), &[("WARDEN_JWT_SECRET", SECRET)]).await;
    eventually("the token has expired", async || {
        Upgrade::bearer(expired.stdout.trim()).send(t.gateway.public_addr()).await.code() == "token_expired"
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_token_command_signs_for_back_ends() {
    const BACKEND_SECRET: &str = "a secret of back ends, of more than 32 bytes";
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        let of_backends = VerifierConfig::hs256(BACKEND_SECRET, BACKEND_ISSUER, Some(BACKEND_ISSUER));
        config.verifier.issuers = of_backends.issuers;
        config.verifier.issuers[0].rules.backends_only = true;
    })
    .await;
    let org = t.db.create_org().await.to_string();
    let args = ["token", "--org", &org, "--backend", "--sub", "billing"];
    let secrets = [("WARDEN_BACKEND_SECRET", BACKEND_SECRET), ("WARDEN_JWT_AUDIENCE", "of users")];
    let outcome = run(&args, &secrets).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    let addr = t.gateway.public_addr();
    let answer =
        Post::json("/v1/revocations", outcome.stdout.trim(), &json!({"user_id": "alice"})).send(addr).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(Upgrade::bearer(outcome.stdout.trim()).send(addr).await.code(), "backend_token");
    t.gateway.stop().await;

    fails(&args, &[("WARDEN_JWT_SECRET", SECRET)], 2, &["WARDEN_BACKEND_SECRET"], &[SECRET]).await;
    fails(
        &args,
        &[("WARDEN_BACKEND_SECRET", "hunter2")],
        1,
        &["WARDEN_BACKEND_SECRET", "at least 32"],
        &["hunter2"],
    )
    .await;
    let with_role = [&args[..], &["--role", "authenticated"]].concat();
    fails(&with_role, &secrets, 2, &["--backend", "--role"], &[BACKEND_SECRET]).await;
}

#[tokio::test]
async fn token_reports_missing_and_invalid_options() {
    let org = Uuid::new_v4().to_string();
    let args = ["token", "--org", &org];
    for short in ["hunter2", "a secret of thirty-one bytes..."] {
        let shown = ["WARDEN_JWT_SECRET", "at least 32", "openssl rand -hex 32"];
        fails(&args, &[("WARDEN_JWT_SECRET", short)], 1, &shown, &[short]).await;
    }
    fails(&args, &[], 2, &["WARDEN_JWT_SECRET"], &[]).await;
    let secret = [("WARDEN_JWT_SECRET", SECRET)];
    fails(&["token"], &secret, 2, &["--org"], &[SECRET]).await;
    fails(&["token", "--org", "acme"], &secret, 2, &["--org"], &[SECRET, "acme"]).await;
    fails(
        &["token", "--org", &org, "--topics", "Calls"],
        &secret,
        2,
        &["--topics", "call:*"],
        &[SECRET, "Calls"],
    )
    .await;
    for (filters, code, shown) in [
        ("calls", 2, "expected a JSON object"),
        (r#"{"org": "*"}"#, 1, "aggregate topic"),
        (r#"{"calls": ""}"#, 1, "without a condition"),
        (r#"{"calls": "team=eq.$app_metadata.team"}"#, 1, "$app_metadata.NAME"),
    ] {
        let args = ["token", "--org", &org, "--filters", filters];
        fails(&args, &secret, code, &["--filters", shown], &[SECRET]).await;
    }
    fails(&["token", "--org", &org, "--ttl", "soon"], &secret, 2, &["90s, 15m, 1h or 7d"], &[SECRET]).await;
}

#[tokio::test]
async fn migrate_reports_applied_migrations_and_another_version() {
    let db = TestDb::create().await;
    let name = format!("{}_empty", db.name);
    db.run(format!("create database {name}")).await;
    let url = shared_cluster_url(&name, SUPERUSER);
    let first = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    assert_eq!((first.code, first.stderr.as_str()), (Some(0), ""), "{first:?}");
    let applied = first.stdout.lines().filter(|line| line.starts_with("applied core 00")).count();
    assert_eq!(applied, warden::postgres::SchemaSet::Core.migrator().iter().count(), "{first:?}");
    assert!(first.stdout.ends_with("the schema is up to date\n"), "{first:?}");
    let again = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), ""), "{again:?}");
    assert_eq!(again.stdout, format!("the schema is up to date ({applied} migrations)\n"));

    let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
    let orgs: i64 = sqlx::query_scalar("select count(*) from organizations")
        .fetch_one(&mut connection)
        .await
        .expect("the schema exists");
    assert_eq!(orgs, 1, "the default organisation");
    sqlx::query("update warden._sqlx_migrations set checksum = '\\x00' where version = 2")
        .execute(&mut connection)
        .await
        .expect("updates");
    let renewed = run(&["migrate"], &[("DATABASE_URL", &url)]).await;
    assert_eq!(renewed.code, Some(0), "{renewed:?}");
    assert!(renewed.stdout.starts_with("applied core 0002 event log (again)\n"), "{renewed:?}");
    let newer = "update warden._sqlx_migrations set version = 9999 where version = 2";
    sqlx::query(newer).execute(&mut connection).await.expect("updates");
    let expected = ["core migration 9999", "a newer version migrated it"];
    fails(&["migrate"], &[("DATABASE_URL", &url)], 1, &expected, &[]).await;
    fails(&["migrate", "--plan"], &[("DATABASE_URL", &url)], 1, &expected, &[]).await;
}

#[tokio::test]
async fn migrate_reports_invalid_urls_without_the_password() {
    fails(&["migrate"], &[], 2, &["DATABASE_URL"], &[]).await;
    for url in ["postgres://user:hunter2@127.0.0.1:1/db", "postgres://user:hunter2@no-such-host.invalid/db"] {
        fails(&["migrate"], &[("DATABASE_URL", url)], 1, &["cannot connect to DATABASE_URL"], &["hunter2"])
            .await;
    }
    for url in [
        "postgres://user:hunter2@host:port/db",
        "user:hunter2@host",
        "mysql://user:hunter2@host/db",
        "postgres://user:hunter2@host/db?sslmode=maybe",
    ] {
        fails(&["migrate"], &[("DATABASE_URL", url)], 1, &["DATABASE_URL"], &["hunter2"]).await;
    }
}

#[tokio::test]
async fn audit_reports_findings_by_exit_code_and_with_remedies() {
    let db = TestDb::create().await;
    let database = [("DATABASE_URL", db.url())];
    let clean = run(&["audit", "--json"], &database).await;
    let report: Value = serde_json::from_str(&clean.stdout).expect("one JSON document");
    assert_eq!(
        (&report["version"], &report["tables"], &report["is_standby"]),
        (&json!(1), &json!(47), &json!(false))
    );
    // Roles belong to the cluster, so findings may be about those that other tests have created.
    let findings: Vec<&Value> = report["findings"].as_array().expect("a list").iter().collect();
    let of_roles = [
        "bypassing-role",
        "request-role",
        "all-data-role",
        "role-creator",
        "schema-right",
        "token-hook-caller",
    ];
    let of_roles = of_roles.map(|rule| json!(rule));
    assert!(findings.iter().all(|f| of_roles.contains(&f["rule"])), "{report}");
    let is_clean = findings.iter().all(|f| f["severity"] == "notice");
    assert_eq!((clean.code, clean.stderr.as_str()), (Some(i32::from(!is_clean)), ""));

    db.run("alter table calls disable trigger warden_org_id_immutable").await;
    let broken = run(&["audit"], &database).await;
    assert_eq!((broken.code, broken.stderr.as_str()), (Some(1), ""), "{broken:?}");
    assert!(broken.stdout.contains("public.calls\n  finding  immutability "), "{broken:?}");
    assert!(broken.stdout.contains("sql> select warden.guard_org_id('public.calls');\n"), "{broken:?}");
    assert!(!broken.stdout.contains('\x1b'), "colours in a pipe");
    let broken = run(&["audit", "--json", "--deep"], &database).await;
    let report: Value = serde_json::from_str(&broken.stdout).expect("one JSON document");
    let finding = report["findings"].as_array().expect("a list").iter().find(|f| f["rule"] == "immutability");
    let finding = finding.unwrap_or_else(|| panic!("{report}"));
    assert_eq!((&finding["severity"], &finding["table"]), (&json!("finding"), &json!("public.calls")));
    assert_eq!(finding["object"], "warden_org_id_immutable");
    assert_eq!(
        finding["remedy"],
        json!({"kind": "sql", "text": "select warden.guard_org_id('public.calls');"})
    );
    assert_eq!(broken.code, Some(1));

    // While a query takes long, the command prints what it waits for.
    let mut holder = sqlx::PgConnection::connect(db.url()).await.expect("connects");
    sqlx::raw_sql("begin; lock table dnc_list in access exclusive mode")
        .execute(&mut holder)
        .await
        .expect("locks");
    let waited = run(&["audit"], &database).await;
    assert!(
        waited.stderr.contains("checking org-column, fill-trigger, not-enforced and others ("),
        "{waited:?}"
    );
    assert!(
        waited.stdout.contains(
            "public.dnc_list\n  finding  not-checked            org-plan: could not be checked: another session has locked"
        ),
        "{waited:?}"
    );
    assert_eq!(waited.code, Some(1));

    fails(&["audit"], &[], 2, &["DATABASE_URL"], &[]).await;
    let nobody = [("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db")];
    let refused = ["error: cannot connect to DATABASE_URL: 127.0.0.1:1: connection refused\n"];
    fails(&["audit"], &nobody, 2, &refused, &["hunter2"]).await;
    fails(&["audit", "--timeout", "0"], &database, 2, &["--timeout"], &[]).await;
    let help = run(&["audit", "--help"], &[]).await;
    for text in ["read-only", "Exit code 0: clean", "docs/tenancy.md"] {
        assert!(help.stdout.contains(text), "{help:?}");
    }
}

#[tokio::test]
async fn serve_reports_missing_and_invalid_options() {
    let database = ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db");
    let secret = ("WARDEN_JWT_SECRET", SECRET);
    fails(&["serve"], &[], 2, &["DATABASE_URL", "WARDEN_JWT_SECRET"], &[]).await;
    fails(&["serve"], &[database], 2, &["WARDEN_JWT_SECRET"], &["hunter2"]).await;
    fails(&["serve"], &[secret], 2, &["DATABASE_URL"], &[SECRET]).await;
    let short = ("WARDEN_JWT_SECRET", "too short");
    fails(&["serve"], &[database, short], 1, &["at least 32"], &["hunter2", "too short"]).await;
    for origin in ["*", "app.example", "https://*.example"] {
        let origins = ("WARDEN_ALLOWED_ORIGINS", origin);
        fails(
            &["serve"],
            &[database, secret, origins],
            1,
            &["WARDEN_ALLOWED_ORIGINS, entry 1"],
            &["hunter2"],
        )
        .await;
    }
    for (variable, value, shown) in [
        ("WARDEN_JWKS_URLS", "https://a.example/jwks", "ISSUER=URL"),
        ("WARDEN_JWKS_URLS", "a=http://a.example/jwks", "use https"),
        ("WARDEN_ISSUERS_FILE", "/nowhere/issuers.toml", "No such file"),
        ("WARDEN_JWT_SECRET_PREVIOUS", "too short", "at least 32"),
        ("WARDEN_TOPICS_NEED_CLAIM", "Recordings", "recordings, call:* or org"),
    ] {
        let mut others = vec![database, (variable, value)];
        if !matches!(variable, "WARDEN_JWKS_URLS" | "WARDEN_ISSUERS_FILE") {
            others.push(secret);
        }
        fails(&["serve"], &others, 1, &[variable, shown], &["hunter2", SECRET, "too short"]).await;
    }
    // With a key server, the claim `iss` chooses the issuer. So the secret needs an issuer as well.
    let beside = [database, secret, ("WARDEN_JWKS_URLS", "a=https://a.example/jwks")];
    fails(&["serve"], &beside, 1, &["WARDEN_JWT_ISSUER"], &["hunter2", SECRET]).await;
    let address = ("WARDEN_LISTEN", "localhost");
    fails(&["serve"], &[database, secret, address], 2, &["--listen"], &["hunter2", "localhost"]).await;

    let open = ("WARDEN_LISTEN", "0.0.0.0:0");
    let shown = [
        "0.0.0.0",
        "WARDEN_TLS_CERT",
        "WARDEN_TLS_KEY",
        "WARDEN_ALLOW_PLAINTEXT=true",
        "WARDEN_TRUSTED_PROXIES",
    ];
    fails(&["serve"], &[database, secret, open], 1, &shown, &["hunter2", SECRET]).await;
    let certificate = ("WARDEN_TLS_CERT", "/nowhere/cert.pem");
    fails(&["serve"], &[database, secret, open, certificate], 2, &["--tls-key"], &["hunter2"]).await;
    let pair = [database, secret, open, certificate, ("WARDEN_TLS_KEY", "/nowhere/key.pem")];
    let ports = [("WARDEN_ADMIN_LISTEN", "127.0.0.1:0")];
    fails(&["serve"], &[&pair[..], &ports].concat(), 1, &["WARDEN_TLS_CERT", "No such file"], &[SECRET])
        .await;
    let cookie = ("WARDEN_AUTH_COOKIE", "token");
    fails(&["serve"], &[database, secret, cookie], 1, &["WARDEN_ALLOWED_ORIGINS"], &[SECRET]).await;
    for (variable, value) in
        [("WARDEN_TRUSTED_PROXIES", "10.0.0.0/33"), ("WARDEN_MESSAGES", "20"), ("WARDEN_IPV6_PREFIX", "9")]
    {
        let flag = variable.replace("WARDEN_", "--").replace('_', "-").to_lowercase();
        fails(&["serve"], &[database, secret, (variable, value)], 2, &[&flag], &[SECRET, value]).await;
    }

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = taken.local_addr().expect("an address").to_string();
    for (variable, free) in
        [("WARDEN_LISTEN", "WARDEN_ADMIN_LISTEN"), ("WARDEN_ADMIN_LISTEN", "WARDEN_LISTEN")]
    {
        let variables = [database, secret, (variable, &addr), (free, "127.0.0.1:0")];
        let shown = ["cannot listen on", &addr, &format!("Set {variable}"), "in use"];
        fails(&["serve"], &variables, 1, &shown, &["hunter2", SECRET]).await;
    }
}
