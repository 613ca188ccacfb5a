//! Who asks, and how they are told no: what upgrades and requests of back ends have in common. It knows no route.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::HttpState;
use super::error::Refusal;
use super::serve::Peer;
use crate::audit_trail;
use crate::auth::{self, Identity, Token};
use crate::control::Revoked;
use crate::metrics::RefusalLabels;
use crate::org::OrgId;
use crate::session;

/// What was asked for, as metrics and the audit trail tell it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// A socket, or a path that is none.
    Upgrade,
    /// A revocation.
    Revocation,
}

/// Counts, tells and, after a while, answers a refusal.
pub(super) async fn refuse(
    state: &HttpState,
    address: IpAddr,
    request: &Request<()>,
    refusal: Refusal,
    asked: Asked,
) -> Response {
    let (status, code) = refusal.code();
    let metrics = &state.shared.metrics;
    let (refused, is_revocation) = match asked {
        Asked::Upgrade => (&metrics.refused, false),
        Asked::Revocation => (&metrics.revocations_refused, true),
    };
    refused.get_or_create(&RefusalLabels { code }).inc();
    // Those of a flood are counted, and told of now and then.
    let is_limit = matches!(refusal, Refusal::Limit(..));
    let untold = if is_limit { state.admission.tells() } else { Some(0) };
    if let Some(untold) = untold {
        let cookie = state.auth_cookie.as_ref();
        let presented = || auth::find(request.uri(), request.headers(), cookie).ok();
        let token = if is_limit { None } else { presented().map(|presented| presented.token.hash()) };
        // The refusal's text never repeats what was sent; the URL is not logged at all.
        let (status, reason) = (status.as_u16(), &*refusal.to_string());
        audit_trail::refused(audit_trail::Refused {
            address,
            code,
            status,
            reason,
            token,
            untold,
            is_revocation,
        });
    }
    if refusal.is_failed_handshake() {
        tokio::select! {
            () = state.admission.delay(address) => {}
            () = state.draining.cancelled() => {}
        }
    }
    refusal.into_response()
}

/// Whose request it is.
pub(super) fn address(state: &HttpState, request: &Request<()>) -> IpAddr {
    let peer =
        request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address);
    state.admission.client(peer, request.headers())
}

/// Whose token it is, if it counts: verified, and not revoked.
pub(super) async fn verified(state: &HttpState, token: &Token) -> Result<Identity, Refusal> {
    let identity = state.shared.verifier.verify(token).await?;
    match state.shared.revocations.check(&session::token_subject(&identity)) {
        None => Ok(identity),
        Some(Revoked::Token) => Err(Refusal::Revoked),
        Some(Revoked::Suspended) => Err(Refusal::OrgSuspended),
    }
}

/// Whether the organisation exists.
pub(super) async fn has_org(state: &HttpState, org: OrgId) -> Result<(), Refusal> {
    match state.shared.directory.has_org(org).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::UnknownOrg),
        Err(error) => {
            tracing::warn!(%error, org.id = %org, "an organisation could not be looked up");
            Err(Refusal::Unavailable)
        }
    }
}

/// Browsers always send an Origin, and a page cannot forge it, so it must be on the list, to the letter.
/// Who sends none is no browser: a page in some victim's browser cannot leave it out.
pub(super) fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let is_allowed = |origin: &HeaderValue| allowed.iter().any(|a| a.as_bytes() == origin.as_bytes());
    if headers.get_all(header::ORIGIN).iter().all(is_allowed) { Ok(()) } else { Err(Refusal::Origin) }
}
