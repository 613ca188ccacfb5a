//! A sample of `make clients`: published clients against the real binary, through all steps of
//! `tests/clients/run.mjs`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Longest run of the clients, which includes the start of a database.
const TIMEOUT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn the_clients_of_npm_connect_refresh_and_resume() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/run.mjs");
    let output = Command::new("node")
        .arg(run)
        .args(["phoenix", "realtime-js"])
        .env("WARDEN_BIN", env!("CARGO_BIN_EXE_warden"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, output).await.expect("ends in time").expect("node starts");
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}{log}");
    for name in ["phoenix", "realtime-js"] {
        assert!(
            table.contains(&format!("| {name} | yes | yes | yes | yes | yes | yes | yes |")),
            "{table}{log}"
        );
    }
}
