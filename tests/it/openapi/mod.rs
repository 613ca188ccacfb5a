//! The OpenAPI document: it is served and committed, and answers are as it describes them. CORS of the routes
//! that pages may read.

mod chromium;
mod cors;
mod schemathesis;
mod tenants;

use std::fs;
use std::path::Path;

use serde_json::Value;
use warden::config::{Config, Limits};
use warden::rate::Rate;

use crate::harness::{TestGateway, Upgrade};

const PATH: &str = "/v1/openapi.json";

/// Raises all rates, so that a test may send as many requests as it likes.
fn without_rates(config: &mut Config) {
    const UNLIMITED: Rate = Rate::new(100_000, 100_000);
    let limits = &mut config.limits.admission;
    for rate in [
        &mut limits.handshakes,
        &mut limits.handshakes_per_address,
        &mut limits.connection_rate_per_address,
        &mut limits.reads_per_user,
        &mut limits.reads_per_org,
        &mut limits.revocations_per_org,
        &mut limits.publishes_per_org,
    ] {
        *rate = UNLIMITED;
    }
}

#[tokio::test]
async fn the_served_document_is_the_committed_one() {
    let t = TestGateway::start().await;
    let answer = Upgrade::plain(PATH).send(t.gateway.public_addr()).await;
    assert_eq!(
        (answer.status, answer.headers("content-type")),
        (200, vec!["application/json"]),
        "{answer:?}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("WARDEN_WRITE_DOCS").is_some() {
        fs::write(&path, &answer.body).expect("writes");
    }
    let written = fs::read_to_string(&path).expect("reads");
    assert!(written == answer.body, "docs/openapi.json is out of date: run `make docs-openapi`");
    let document: Value = serde_json::from_str(&written).expect("JSON");
    let events_max = Limits::default().publish.events_max;
    for pointer in ["/components/schemas/Events/oneOf/1/maxItems", "/components/schemas/CloudEvents/maxItems"]
    {
        assert_eq!(document.pointer(pointer), Some(&events_max.into()), "{pointer}");
    }
    let operations = document["paths"].as_object().into_iter().flatten();
    let operations = operations.flat_map(|(_, path)| path.as_object()).flatten();
    let bodies: Vec<&Value> = operations.filter_map(|(_, operation)| operation.get("requestBody")).collect();
    assert!(bodies.len() == 3 && bodies.iter().all(|body| body["required"] == true), "{bodies:?}");
    t.gateway.stop().await;
}
