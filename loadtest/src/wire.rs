//! The protocol as a stranger would read it from its documentation: Phoenix Channels V2 frames, the
//! events inside them, and the token of a handshake. It shares no code with the gateway, so that a
//! mistake there is not made here too.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A frame from the gateway: `[join_ref, ref, topic, event, payload]`.
#[derive(Deserialize)]
pub(crate) struct Frame<'a> {
    /// Null in events, which belong to nobody's request.
    #[serde(rename = "join_ref")]
    _join_ref: Option<String>,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<String>,
    #[serde(borrow)]
    pub(crate) topic: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) payload: &'a RawValue,
}

impl<'a> Frame<'a> {
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

/// The payload of `phx_reply`.
#[derive(Deserialize)]
pub(crate) struct Reply<'a> {
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) response: &'a RawValue,
}

/// What a successful join is answered with.
#[derive(Deserialize)]
pub(crate) struct JoinResponse {
    /// Required, though not used: without it no client could resume.
    #[serde(rename = "cursor")]
    _cursor: String,
}

/// The payload of an event. What is not needed is still named where clients rely on it.
#[derive(Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "id")]
    _id: i64,
    #[serde(rename = "cursor", borrow)]
    _cursor: Cow<'a, str>,
    #[serde(rename = "at", borrow)]
    _at: Cow<'a, str>,
    pub(crate) data: Row,
}

/// The columns of a watched row that tell where it belongs.
#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    /// Absent in rows of table organizations, whose id is the organisation.
    pub(crate) org_id: Option<Uuid>,
    #[serde(default)]
    pub(crate) metadata: Option<Metadata>,
}

/// What the publishers write into `calls.metadata`.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) lt_run: Option<String>,
    pub(crate) lt_change: Option<usize>,
    pub(crate) lt_seq: Option<u32>,
}

/// The frame that joins a topic. The reference is both `join_ref` and `ref`.
pub(crate) fn join(reference: usize, topic: &str) -> String {
    let reference = reference.to_string();
    serde_json::json!([reference, reference, topic, "phx_join", {}]).to_string()
}

/// The frame that keeps a connection from being idle.
pub(crate) fn heartbeat(reference: usize) -> String {
    serde_json::json!([null, reference.to_string(), "phoenix", "heartbeat", {}]).to_string()
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: Uuid,
    aud: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    iat: u64,
    exp: u64,
    role: &'a str,
    app_metadata: AppMetadata,
}

#[derive(Serialize)]
struct AppMetadata {
    org_id: Uuid,
}

/// Signs the tokens of one run.
pub(crate) struct Signer {
    pub(crate) key: EncodingKey,
    pub(crate) audience: String,
    pub(crate) issuer: Option<String>,
    /// Long enough for the whole run, because an expired token would end its session.
    pub(crate) lifetime: Duration,
}

impl Signer {
    /// A token for a new user of an organisation.
    pub(crate) fn token(&self, org_id: Uuid) -> anyhow::Result<String> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970: set it")?
            .as_secs();
        let claims = Claims {
            sub: Uuid::new_v4(),
            aud: &self.audience,
            iss: self.issuer.as_deref(),
            iat: now,
            exp: now + self.lifetime.as_secs(),
            role: "authenticated",
            app_metadata: AppMetadata { org_id },
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .context("could not sign a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_out() {
        assert_eq!(join(1, "calls"), r#"["1","1","calls","phx_join",{}]"#);
        assert_eq!(heartbeat(4), r#"[null,"4","phoenix","heartbeat",{}]"#);
    }

    #[test]
    fn a_join_reply_is_read() {
        let frame =
            Frame::parse(r#"["1","1","calls","phx_reply",{"status":"ok","response":{"cursor":"c"}}]"#)
                .unwrap();
        assert_eq!(
            (frame.reference.as_deref(), &*frame.topic, &*frame.event),
            (Some("1"), "calls", "phx_reply")
        );
        let reply: Reply<'_> = serde_json::from_str(frame.payload.get()).unwrap();
        assert_eq!(reply.status, "ok");
        serde_json::from_str::<JoinResponse>(reply.response.get()).unwrap();
        assert!(serde_json::from_str::<JoinResponse>("{}").is_err());
    }

    #[test]
    fn an_event_is_read() {
        let text = r#"[null,null,"calls","call.created",{"id":17,"at":"2026-01-01T00:00:00Z","cursor":"c","data":
            {"id":"00000000-0000-0000-0000-000000000007","org_id":"00000000-0000-0000-0000-000000000001",
             "status":"queued","metadata":{"lt_run":"ab","lt_change":5,"lt_seq":1}},"old":{}}]"#;
        let frame = Frame::parse(text).unwrap();
        let event: Event<'_> = serde_json::from_str(frame.payload.get()).unwrap();
        assert_eq!((event.data.id, event.data.org_id), (Uuid::from_u128(7), Some(Uuid::from_u128(1))));
        assert_eq!(event.data.metadata.unwrap().lt_change, Some(5));
    }

    #[test]
    fn frames_of_another_shape_are_refused() {
        for text in
            ["{}", "[]", r#"[null,null,"calls","call.created"]"#, r#"[null,null,"a","b",{},1]"#, "nonsense"]
        {
            assert!(Frame::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_holds_its_organisation() {
        use jsonwebtoken::{DecodingKey, Validation};
        let signer = Signer {
            key: EncodingKey::from_secret(b"secret"),
            audience: "authenticated".to_owned(),
            issuer: None,
            lifetime: Duration::from_secs(60),
        };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["authenticated"]);
        let token = signer.token(Uuid::from_u128(9)).unwrap();
        let key = DecodingKey::from_secret(b"secret");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!(claims["app_metadata"]["org_id"], Uuid::from_u128(9).to_string());
        assert_eq!(claims["role"], "authenticated");
    }
}
