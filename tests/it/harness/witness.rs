//! A client of another organisation, which must be served while one organisation takes all that it can.

use serde_json::json;
use uuid::Uuid;
use warden::app::Gateway;

use super::{Client, TestDb, TestGateway, Upgrade, handshake, token, within};

/// Address of the witness, for gateways that trust the test as a proxy.
const ADDRESS: (&str, &str) = ("x-forwarded-for", "203.0.113.9");

/// An organisation with a missed event.
pub struct Witness<'a> {
    db: &'a TestDb,
    gateway: &'a Gateway,
    org: Uuid,
    /// Cursor before the missed event.
    since: String,
}

impl TestGateway {
    /// A witness of this gateway. Begin it before the load.
    pub async fn witness(&self) -> Witness<'_> {
        Witness::begin(&self.db, &self.gateway).await
    }
}

impl<'a> Witness<'a> {
    /// Creates the organisation, and lets its client miss an event.
    pub async fn begin(db: &'a TestDb, gateway: &'a Gateway) -> Self {
        let mut witness = Self { db, gateway, org: db.create_org().await, since: String::new() };
        let mut client = witness.connect().await;
        let cursor = client.join("calls").await["cursor"].clone();
        cursor.as_str().expect("a cursor").clone_into(&mut witness.since);
        witness.db.insert_call(witness.org).await;
        client.expect_event("calls", "call.created").await;
        witness
    }

    async fn connect(&self) -> Client {
        let token = token(self.org, &json!({}));
        let headers = [("authorization", &*format!("Bearer {token}")), ADDRESS];
        let addr = self.gateway.public_addr();
        let (socket, _) = within("a handshake", handshake(addr, "/socket/websocket?vsn=2.0.0", &headers))
            .await
            .expect("the witness connects");
        Client::new(socket)
    }

    /// Connects, joins, resumes, receives and reads rows. Nothing of it is rejected or lost.
    pub async fn expect_served(&self) {
        let mut live = self.connect().await;
        live.join("recordings").await;
        let mut back = self.connect().await;
        back.join_with("calls", json!({"since": self.since})).await;
        back.expect_event("calls", "call.created").await;
        self.db.publish(self.org, "recordings", "live").await;
        live.expect_only("recordings", "live").await;
        let request = Upgrade::bearer(&token(self.org, &json!({}))).without("Upgrade").without("Connection");
        let answer =
            request.to("/v1/calls").with(ADDRESS.0, ADDRESS.1).send(self.gateway.public_addr()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
