//! Rejections in the OpenAPI document: for each kind of request, the statuses and their codes.
//!
//! The tests check that every rejection that any of them causes is in these tables.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{
    AllOfBuilder, ContentBuilder, Header, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
};

use super::super::error::PROBLEM_JSON;

/// Codes of problem documents by status.
type Codes = &'static [(u16, &'static [&'static str])];

/// Rejections of any request, before its route is known.
const EVERY_REQUEST: Codes = &[
    (400, &["credential_in_url"]),
    (429, &["arrivals_per_address", "pending", "pending_per_address"]),
    (431, &["head_too_long"]),
];

/// Rejections of requests that pages may send.
const ORIGIN: Codes = &[(403, &["origin_not_allowed"]), (429, &["handshakes", "handshakes_per_address"])];

/// Rejections of a caller.
const CALLER: Codes = &[
    (400, &["ambiguous_request", "several_tokens", "unknown_subprotocol"]),
    (
        401,
        &[
            "invalid_token",
            "malformed_credential",
            "no_token",
            "token_expired",
            "token_from_future",
            "token_revoked",
            "token_too_long",
        ],
    ),
    (
        403,
        &[
            "no_organisation",
            "organisation_of_another_issuer",
            "organisation_suspended",
            "unknown_organisation",
        ],
    ),
    (503, &["keys_unavailable", "shutting_down", "unavailable"]),
];

/// Rejections of a request of a back end.
const BACK_END: Codes = &[
    (400, &["body_incomplete"]),
    (403, &["not_a_backend"]),
    (408, &["body_timeout"]),
    (413, &["body_too_long"]),
];

const PUBLISH: Codes = &[
    (400, &["invalid_events", "invalid_idempotency_key", "invalid_json"]),
    (403, &["forbidden_topic"]),
    (409, &["idempotency_key_reused"]),
    (413, &["too_many_events"]),
    (415, &["unsupported_encoding", "unsupported_media_type"]),
    (429, &["idempotency_keys", "publishes_per_org"]),
    (503, &["busy"]),
];

const REVOCATION: Codes = &[
    (400, &["invalid_revocation"]),
    (403, &["other_organisation"]),
    (409, &["too_many_revocations"]),
    (415, &["not_json"]),
    (429, &["revocations_per_org"]),
];

/// Rejections of a question about a cursor.
const COVERS: Codes = &[
    (400, &["body_incomplete", "invalid_question"]),
    (408, &["body_timeout"]),
    (413, &["body_too_long"]),
    (415, &["not_json"]),
    (429, &["reads_per_org", "reads_per_user"]),
];

const READ: Codes = &[
    (400, &["invalid_query", "query_too_expensive", "query_too_slow"]),
    (403, &["backend_token", "filter_not_applicable", "forbidden", "forbidden_topic"]),
    (404, &["unknown_topic"]),
    (429, &["org_reads", "reads_per_org", "reads_per_user"]),
    (503, &["busy", "not_readable"]),
];

const ROW: Codes = &[(404, &["unknown_row"]), (422, &["row_too_large"])];

/// Defines the rejections of one kind of request.
macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident: $($table:ident),+;)+) => {
        $($(#[$doc])*
        pub(in super::super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses(&[$($table),+])
            }
        })+
    };
}

errors! {
    /// Rejections of a probe.
    ProbeErrors: EVERY_REQUEST;
    /// Rejections of a request for the document.
    DocumentErrors: EVERY_REQUEST, ORIGIN;
    /// Rejections of a request to publish.
    PublishErrors: EVERY_REQUEST, ORIGIN, CALLER, BACK_END, PUBLISH;
    /// Rejections of a request to revoke.
    RevocationErrors: EVERY_REQUEST, ORIGIN, CALLER, BACK_END, REVOCATION;
    /// Rejections of a question about a cursor.
    CoversErrors: EVERY_REQUEST, ORIGIN, CALLER, COVERS;
    /// Rejections of a request for a page.
    PageErrors: EVERY_REQUEST, ORIGIN, CALLER, READ;
    /// Rejections of a request for a row.
    RowErrors: EVERY_REQUEST, ORIGIN, CALLER, READ, ROW;
}

fn responses(tables: &[Codes]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, codes) in tables.iter().copied().flatten() {
        by_status.entry(*status).or_default().extend(*codes);
    }
    let response = |(status, mut codes): (u16, Vec<&'static str>)| {
        codes.sort_unstable();
        (status.to_string(), RefOr::T(problem(status, codes)))
    };
    by_status.into_iter().map(response).collect()
}

/// A problem document with one of these codes.
fn problem(status: u16, codes: Vec<&'static str>) -> Response {
    let title = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("code", code));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response =
        ResponseBuilder::new().description(title.unwrap_or_default()).content(PROBLEM_JSON, content);
    let header = |name: &str| match name {
        "Retry-After" => Header::new(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1))),
        _ => Header::default(),
    };
    match status {
        401 => response.header("WWW-Authenticate", header("WWW-Authenticate")),
        429 | 503 => response.header("Retry-After", header("Retry-After")),
        _ => response,
    }
    .build()
}
