//! The official SDKs of CloudEvents publish as they come.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::{PATH, ids, service, with_orgs};
use crate::harness::within;

/// Runs a program that publishes two events, and the second one again. Checks that a subscriber gets both.
async fn publishes(program: &str, script: &str) {
    let (t, [org]) = with_orgs().await;
    let mut client = t.connect(org).await;
    client.join("invoices").await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(if program == "node" { program.into() } else { root.join(program) })
        .arg(root.join("tests/clients").join(script))
        .env("URL", format!("http://{}{PATH}", t.gateway.public_addr()))
        .env("TOKEN", service(org))
        .env("TOPIC", "invoices")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the program ends", output).await.expect("the program starts");
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{log}");
    let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let [binary, structured, again] = answers.try_into().expect("three answers");
    for (n, answer) in [(1, &binary), (2, &structured)] {
        let event = client.expect_only("invoices", "test.event").await;
        assert_eq!(
            (&event.payload["data"]["n"], vec![event.payload["id"].clone()]),
            (&Value::from(n), ids(answer).into_iter().map(Value::from).collect()),
            "{answer}"
        );
    }
    // The same event in another mode is the same event.
    assert_eq!(
        (ids(&again), &again["events"][0]["duplicate"]),
        (ids(&structured), &Value::from(true)),
        "{again}"
    );
    t.db.publish(org, "invoices", "test.last").await;
    client.expect_only("invoices", "test.last").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_sdk_of_javascript_publishes() {
    publishes("node", "javascript/cloudevents.mjs").await;
}

#[tokio::test]
#[ignore = "needs the Python packages, which `make clients` installs"]
async fn the_sdk_of_python_publishes() {
    publishes("target/clients/python/bin/python", "python/publish_cloudevents.py").await;
}
