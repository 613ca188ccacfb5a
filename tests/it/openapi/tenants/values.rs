//! Values of an organisation, and like values that do not exist.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::requests::{Caller, SOURCES, cloud_event};
use super::{BACK_END, TABLES, secret, token_of};
use crate::harness::{Post, TestGateway, Upgrade};

/// A value of one organisation that another one must not be able to use.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) kind: String,
    pub(super) value: String,
    /// A value of the same form that does not exist.
    pub(super) nobodys: String,
}

/// An organisation with its values.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) org: Uuid,
    /// A row of each table, and the position behind it.
    rows: [[Owned; 2]; 2],
    /// A row that a policy hides.
    pub(super) hidden: Owned,
    others: Vec<Owned>,
    /// A back end of the organisation.
    back_end: Caller,
}

impl Owned {
    fn new(kind: &str, value: &str) -> Self {
        let random = Uuid::new_v4().simple().to_string();
        let end = value.trim_end_matches('"');
        let nobodys = format!("{}{}{}", &end[..end.len() - 8], &random[..8], &value[end.len()..]);
        Self { kind: kind.to_owned(), value: value.to_owned(), nobodys }
    }

    /// A position that contains this row.
    fn position(row: &Self) -> Self {
        let encode = |id: &str| URL_SAFE_NO_PAD.encode(json!([id]).to_string());
        Self { kind: "position".to_owned(), value: encode(&row.value), nobodys: encode(&row.nobodys) }
    }
}

impl Tenant {
    /// Creates rows and events of an organisation.
    pub(super) async fn new(t: &TestGateway, org: Uuid) -> Self {
        let token = token_of(org, BACK_END);
        let addr = t.gateway.public_addr();
        let get = async |path: String| {
            let request = Upgrade::plain(&path).with("Authorization", &format!("Bearer {token}"));
            request.send(addr).await
        };
        let mut rows = Vec::new();
        for table in TABLES {
            for _ in 0..2 {
                let id = Uuid::new_v4();
                t.db.run(format!("insert into {table} values ('{id}', '{org}', '{}')", secret(org))).await;
            }
            let first: Value =
                serde_json::from_str(&get(format!("/v1/{table}?limit=1")).await.body).expect("JSON");
            let row = Owned::new("row", first["rows"][0]["id"].as_str().expect("an id"));
            let position = Owned::position(&row);
            let next = first["next"].as_str().expect("another page");
            assert!(next.ends_with(&position.value), "{next} does not end with {position:?}");
            rows.push([row, position]);
        }
        let row = get(format!("/v1/{}/{}", TABLES[0], rows[0][0].value)).await;
        let page: Value = serde_json::from_str(&get(format!("/v1/{}", TABLES[0])).await.body).expect("JSON");
        let key = format!("key-{org}");
        let event = json!({"topic": "notes", "event": "test.event", "data": {"secret": secret(org)}});
        let published =
            Post::json("/v1/events", &token, &event).with("Idempotency-Key", &key).send(addr).await;
        let published: Value = serde_json::from_str(&published.body).expect("JSON");
        let clouds = json!(SOURCES.map(|source| cloud_event(&org.to_string(), source)));
        let batched = Post::json("/v1/events", &token, &clouds);
        let batched =
            batched.without("Content-Type").with("Content-Type", "application/cloudevents-batch+json");
        assert_eq!(batched.send(addr).await.status, 202);
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let (cursor, tx) = (text(&page["cursor"]), text(&published["tx"]));
        let hidden = Uuid::new_v4();
        t.db.run(format!("insert into memos values ('{hidden}', '{org}', '{}', true)", secret(org))).await;
        let hidden = Owned::new("hidden row", &hidden.to_string());
        let others = vec![
            Owned::new("organisation and id of CloudEvents", &org.to_string()),
            Owned::new("ETag", row.headers("etag")[0]),
            Owned::new("cursor", &cursor),
            Owned::new("transaction", &tx),
            Owned::new("idempotency key", &key),
            Owned::new("user", &format!("user-{org}")),
        ];
        let rows: [[Owned; 2]; 2] = rows.try_into().expect("a row of each table");
        let ids = rows.each_ref().map(|[row, _]| row.value.clone());
        Self { org, rows, hidden, others, back_end: Caller { token, cursor, tx, rows: ids } }
    }

    /// Values that requests about a table may have, by the place of the table.
    pub(super) fn values(&self, table: usize) -> impl Iterator<Item = &Owned> {
        self.rows[table].iter().chain([&self.hidden]).chain(&self.others)
    }

    /// A caller of this organisation with a token of this role.
    pub(super) fn caller(&self, role: &str) -> Caller {
        Caller { token: token_of(self.org, role), ..self.back_end.clone() }
    }

    /// Values like those of the organisation's callers, which do not exist, with this token.
    pub(super) fn nobody(&self, token: &str) -> Caller {
        let like = |value: &str| Owned::new("", value).nobodys;
        let Caller { cursor, tx, rows, .. } = &self.back_end;
        let rows = rows.each_ref().map(|row| like(row));
        Caller { token: token.to_owned(), cursor: like(cursor), tx: like(tx), rows }
    }
}
