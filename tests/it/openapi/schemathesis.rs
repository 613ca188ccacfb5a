//! schemathesis generates requests from the served document, valid and invalid ones, and checks every answer
//! against it: status, media type, headers and schema.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use super::PATH;
use crate::harness::{TestDb, TestGateway, token};

/// Longest run, beyond which it has failed. `make schemathesis` sets the number of examples.
const RUN_TIMEOUT: Duration = Duration::from_secs(1200);

/// Longest printed line of its report.
const LINE_CHARS_MAX: usize = 400;

#[tokio::test]
#[ignore = "needs the package that `make schemathesis` installs, and takes minutes"]
async fn schemathesis_finds_nothing() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("select warden.declare_topic('invoices')").await;
    db.run(format!(
        "insert into calls (id, org_id) values ('22222222-2222-4222-8222-222222222222', '{org}')"
    ))
    .await;
    let t = TestGateway::start_with(db, super::without_rates).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::env::var_os("WARDEN_SCHEMATHESIS").expect("`make schemathesis` sets it");
    let examples = std::env::var("WARDEN_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "50".to_owned());
    let mut command = Command::new(root.join(&program));
    command
        .arg("--config-file")
        .arg(root.join("tests/openapi/schemathesis.toml"))
        .args(["run", "--no-color", "--max-examples", &examples, "--generation-database", "none"])
        .args(["--continue-on-failure"])
        .arg(format!("http://{}{PATH}", t.gateway.public_addr()))
        .env("TOKEN", token(org, &json!({"sub": "billing", "role": "service_role"})))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(RUN_TIMEOUT, command.output()).await.expect("it ends");
    let output = output.expect("it starts");
    // A request that found something may have a line of a megabyte.
    let shown = |line: &str| line.chars().take(LINE_CHARS_MAX).collect::<String>();
    let text: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(shown).collect();
    println!("{}", text.join("\n"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    t.gateway.stop().await;
}
