//! The documented routes of the public listener, and `GET /v1/openapi.json`, the document about them.
//!
//! Routes and document have one source: the annotations of the handlers, from which the router is built. The
//! document describes `/v1/{topic}` in general. One path for each table would show strangers the schema.
//! `docs/openapi.json` is the same document.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::error::{Document as ProblemDocument, Rejection};
use super::events::{self, Publishing};
use super::gatekeeper::{Gatekeeper, RequestKind};
use super::health::{self, Health};
use super::rows::{self, Rows};
use super::{cors, covers, openapi, revocations};
use crate::publish::Problem;

/// State of these routes.
#[derive(Clone, Debug)]
pub(super) struct RouteState {
    pub(super) publishing: Publishing,
    pub(super) rows: Rows,
    pub(super) health: Health,
}

impl FromRef<RouteState> for Arc<Gatekeeper> {
    fn from_ref(state: &RouteState) -> Self {
        Self::clone(&state.publishing.gatekeeper)
    }
}

impl FromRef<RouteState> for Publishing {
    fn from_ref(state: &RouteState) -> Self {
        state.publishing.clone()
    }
}

impl FromRef<RouteState> for Rows {
    fn from_ref(state: &RouteState) -> Self {
        state.rows.clone()
    }
}

impl FromRef<RouteState> for Health {
    fn from_ref(state: &RouteState) -> Self {
        state.health.clone()
    }
}

/// The documented routes.
pub(super) fn router(state: RouteState) -> Router {
    Router::from(documented()).with_state(state)
}

fn documented() -> OpenApiRouter<RouteState> {
    OpenApiRouter::default()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(revocations::revoke).map(|route| route.fallback(reject_revocation)))
        .routes(routes!(covers::covers).map(|route| readable(route, "POST,OPTIONS")))
        .routes(routes!(events::publish).map(|route| route.fallback(reject_publish)))
        .routes(routes!(read_document).map(|route| readable(route, "GET,HEAD,OPTIONS")))
        .routes(routes!(rows::read_page).map(|route| readable(route, "GET,HEAD,OPTIONS")))
        .routes(routes!(rows::read_row).map(|route| readable(route, "GET,HEAD,OPTIONS")))
}

/// Adds the answers to OPTIONS and to other methods to a route that pages may read. axum adds `Allow` to
/// rejected methods only, so OPTIONS needs the list.
fn readable(route: MethodRouter<RouteState>, allow: &'static str) -> MethodRouter<RouteState> {
    let options = async move |State(gatekeeper): State<Arc<Gatekeeper>>, request: Request| {
        cors::options(&gatekeeper, request, allow).await
    };
    route.options(options).fallback(reject_read)
}

/// Rejects another method of the route for revocations.
async fn reject_revocation(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    gatekeeper.reject_counted(&request.map(drop), Rejection::Method, RequestKind::Revocation).await
}

/// Rejects another method of the route for events.
async fn reject_publish(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    gatekeeper.reject_counted(&request.map(drop), Rejection::Method, RequestKind::Publish).await
}

/// Rejects another method of a route that pages may read.
async fn reject_read(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    let request = request.map(drop);
    let response = gatekeeper.reject_counted(&request, Rejection::Method, RequestKind::Read).await;
    cors::expose(&gatekeeper, request.headers(), response)
}

/// Sends this document, without a token.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "readDocument",
    tag = openapi::DOCUMENT,
    responses(
        (status = 200, description = "The document", body = ref("#/components/schemas/Document"),
            content_type = "application/json"),
        openapi::DocumentErrors,
    ),
    security(()),
)]
async fn read_document(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    let request = request.map(drop);
    let response = match gatekeeper.check_without_token(&request) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response(),
        Err(rejection) => {
            let address = gatekeeper.address(&request);
            gatekeeper.reject(address, &request, rejection, RequestKind::Read).await
        }
    };
    cors::expose(&gatekeeper, request.headers(), response)
}

/// The OpenAPI document, serialised as JSON.
static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// Schemas that the answers of several routes contain.
#[derive(OpenApi)]
#[openapi(components(schemas(ProblemDocument<'_>, Problem)))]
struct Shared;

fn document() -> Value {
    let mut openapi = Shared::openapi();
    openapi.merge(documented().into_openapi());
    // Maps, strings and numbers can always be serialised.
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    document["info"] = json!({
        "title": "Warden",
        "version": "1",
        "summary": "HTTP interface of the real-time gateway",
        "description": "Rows of watched tables for front ends, and publishing and revocation for back ends. Changes of \
                        rows arrive on the WebSocket at `/socket/websocket`, which OpenAPI cannot describe. \
                        Requests use HTTP/1.1. Rejections are problem documents (RFC 9457).",
        "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/", "description": "The gateway that serves this document"}]);
    document["tags"] = json!([
        {"name": openapi::ROWS, "description": "Rows of watched tables, as the user of the token may see them"},
        {"name": openapi::TRANSACTIONS, "description": "Questions about transactions, of users and back ends"},
        {"name": openapi::BACK_ENDS, "description": "Requests with a token whose `role` is that of a back end"},
        {"name": openapi::PROBES, "description": "State of the node, for balancers and operators"},
        {"name": openapi::DOCUMENT, "description": "This document"},
    ]);
    let components = &mut document["components"];
    components["securitySchemes"]["bearer"] = json!({
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A token of the organisation, which is the claim `app_metadata.org_id`. With the claim \
                        `app_metadata.warden_filters`, requests read only rows that these filters select, and \
                        topics that they do not name answer `forbidden_topic`",
    });
    if let (Some(all), Value::Object(more)) = (components["schemas"].as_object_mut(), openapi::schemas()) {
        all.extend(more);
    }
    for parameter in
        document["paths"].as_object_mut().into_iter().flatten().flat_map(|(_, path)| parameters(path))
    {
        // A header is absent or a string, never null.
        if parameter["in"] == "header" {
            parameter["schema"]["type"] = json!("string");
        }
    }
    let components = &mut document["components"];
    let field = |name: &str| json!({"required": [name]});
    components["schemas"]["RevocationBody"]["oneOf"] =
        json!([field("session_id"), field("user_id"), field("org_id")]);
    components["schemas"]["CoversBody"]["oneOf"] = json!([field("tx"), field("page")]);
    // The macro omits this for a body with several media types. Only the binary mode of CloudEvents has
    // requests without a body, and in OpenAPI a body cannot depend on headers.
    document["paths"]["/v1/events"]["post"]["requestBody"]["required"] = json!(true);
    document
}

/// Parameters of all operations of a path.
fn parameters(path: &mut Value) -> impl Iterator<Item = &mut Value> {
    let operations = path.as_object_mut().into_iter().flatten();
    operations.filter_map(|(_, operation)| operation.get_mut("parameters")?.as_array_mut()).flatten()
}
