//! Checks that the routes share, and the answer to a rejected request.
//!
//! This module decides which callers may use the gateway, and must not know what a route does.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use axum::response::{IntoResponse as _, Response};
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::error::Rejection;
use super::serve::Peer;
use crate::audit_trail;
use crate::auth::{self, CookieName, CredentialError, Identity, Presented, Token, Verifier};
use crate::control::{Directory, Revocations, Revoked};
use crate::hub::Hub;
use crate::metrics::{Metrics, RejectionLabels};
use crate::org::{Incarnation, OrgId};
use crate::session;

/// Kind of a request, for metrics and the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// An upgrade, a path that does not exist, or another method of the socket or of a probe.
    Upgrade,
    /// A request of a back end to revoke tokens.
    Revocation,
    /// A request of a back end to publish events.
    Publish,
    /// A request that pages may send: for rows, a question about a cursor, or for the OpenAPI document.
    Read,
}

/// State of the shared checks.
#[derive(Debug)]
pub struct Gatekeeper {
    /// Limits by address, organisation and user.
    pub admission: Arc<Admission>,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Revoked tokens.
    pub revocations: Arc<Revocations>,
    /// Existing organisations.
    pub directory: Arc<Directory>,
    /// Knows whether the node has a position in the log.
    pub hub: Arc<Hub>,
    /// Counters of rejected requests.
    pub metrics: Arc<Metrics>,
    /// Exact origins of pages that may connect.
    pub allowed_origins: Box<[String]>,
    /// Name of the cookie that may carry a token, if one may.
    pub auth_cookie: Option<CookieName>,
    /// Longest time for the decision on a request, and again for reading its body.
    pub timeout: Duration,
    /// Cancelled when the gateway begins to shut down.
    pub draining: CancellationToken,
}

impl Gatekeeper {
    /// Counts and logs a rejection. Returns the answer, perhaps after a delay.
    pub(super) async fn reject(
        &self,
        address: IpAddr,
        request: &Request<()>,
        rejection: Rejection,
        kind: RequestKind,
    ) -> Response {
        let (status, code) = rejection.code();
        let rejected = match kind {
            RequestKind::Upgrade => &self.metrics.rejected,
            RequestKind::Revocation => &self.metrics.revocations_rejected,
            RequestKind::Publish => &self.metrics.publishes_rejected,
            RequestKind::Read => &self.metrics.reads_rejected,
        };
        rejected.get_or_create(&RejectionLabels { code }).inc();
        let is_limit = matches!(rejection, Rejection::Limit(..));
        // A flood of requests beyond a limit would fill the log, so most of its rejections are only counted.
        let unlogged = if is_limit { self.admission.log_allowance() } else { Some(0) };
        if let Some(unlogged) = unlogged {
            let presented = || auth::find(request.uri(), request.headers(), self.auth_cookie.as_ref()).ok();
            let token = if is_limit { None } else { presented().map(|presented| presented.token.hash()) };
            audit_trail::rejected(audit_trail::Rejected {
                address,
                code,
                status: status.as_u16(),
                // The reason never repeats what the client sent. The URL is not logged at all.
                reason: &rejection.to_string(),
                token,
                unlogged,
                request: match kind {
                    RequestKind::Upgrade => audit_trail::Request::Upgrade,
                    RequestKind::Revocation => audit_trail::Request::Revocation,
                    RequestKind::Publish => audit_trail::Request::Publish,
                    RequestKind::Read => audit_trail::Request::Read,
                },
            });
        }
        if rejection.is_client_fault() {
            tokio::select! {
                () = self.admission.delay(address) => {}
                () = self.draining.cancelled() => {}
            }
        }
        rejection.into_response()
    }

    /// Rejects a request whose caller is not checked. It counts as a handshake, and a credential in its URL
    /// has precedence.
    pub(super) async fn reject_counted(
        &self,
        request: &Request<()>,
        rejection: Rejection,
        kind: RequestKind,
    ) -> Response {
        let address = self.address(request);
        let rejection = match self.admission.request(address) {
            Err((limit, wait)) => Rejection::Limit(limit, wait),
            Ok(()) => {
                let found = auth::find(request.uri(), request.headers(), None);
                check_url(&found).err().unwrap_or(rejection)
            }
        };
        self.reject(address, request, rejection, kind).await
    }

    /// Checks a request that needs no token. It counts as a handshake.
    pub(super) fn check_without_token(&self, request: &Request<()>) -> Result<(), Rejection> {
        let address = self.address(request);
        self.admission.request(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
        check_url(&auth::find(request.uri(), request.headers(), None))?;
        self.check_origin(request.headers())
    }

    /// Address of the client that sent the request.
    pub(super) fn address(&self, request: &Request<()>) -> IpAddr {
        let peer =
            request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address);
        self.admission.client(peer, request.headers())
    }

    /// Checks that the node is neither draining nor still without a position in the log.
    ///
    /// Before it has a position, topics and revocations are not loaded: a client could not join, and a
    /// revoked token would pass. If the log is lost later, requests are served: sessions receive the missed
    /// events afterwards.
    pub(super) fn check_ready(&self) -> Result<(), Rejection> {
        if self.draining.is_cancelled() {
            return Err(Rejection::ShuttingDown);
        }
        if !self.hub.has_position() {
            return Err(Rejection::NotFollowing);
        }
        Ok(())
    }

    /// The bearer token of a request that is no upgrade. It is not verified yet.
    ///
    /// A credential in the URL, an ambiguous request and an origin that is not allowed are rejected first.
    pub(super) fn bearer_token(&self, request: &Request<()>) -> Result<Token, Rejection> {
        let headers = request.headers();
        // Cookies are never accepted here: a page of another origin could make a browser send them.
        let found = auth::find(request.uri(), headers, None);
        check_url(&found)?;
        if request.version() != Version::HTTP_11 || headers.get_all(header::HOST).iter().count() != 1 {
            return Err(Rejection::Ambiguous);
        }
        self.check_origin(headers)?;
        Ok(found?.token)
    }

    /// Verifies a user's token, and checks that it is not revoked.
    pub(super) async fn verify(&self, address: IpAddr, token: &Token) -> Result<Identity, Rejection> {
        let identity = self.verify_any(address, token).await?;
        if identity.backends_only { Err(Rejection::BackEndOnly) } else { Ok(identity) }
    }

    /// Verifies a back end's token, and checks that it is not revoked.
    pub(super) async fn verify_back_end(
        &self,
        address: IpAddr,
        token: &Token,
    ) -> Result<Identity, Rejection> {
        let identity = self.verify_any(address, token).await?;
        if identity.is_service { Ok(identity) } else { Err(Rejection::NotABackEnd) }
    }

    /// Verifies the token of a user or a back end, and checks that it is not revoked. Then its address is
    /// known.
    pub(super) async fn verify_any(&self, address: IpAddr, token: &Token) -> Result<Identity, Rejection> {
        let identity = self.verifier.verify(token).await?;
        match self.revocations.check(&session::token_subject(&identity)) {
            None => {
                self.admission.note_valid_token(address);
                Ok(identity)
            }
            Some(Revoked::Token) => Err(Rejection::Revoked),
            Some(Revoked::Suspended) => Err(Rejection::OrgSuspended),
        }
    }

    /// Checks that the organisation exists, and returns its incarnation.
    pub(super) async fn check_org(&self, org: OrgId) -> Result<Incarnation, Rejection> {
        match self.directory.incarnation(org).await {
            Ok(Some(incarnation)) => Ok(incarnation),
            Ok(None) => Err(Rejection::UnknownOrg),
            Err(error) => {
                tracing::warn!(%error, org.id = %org, "organisation lookup failed");
                Err(Rejection::Unavailable)
            }
        }
    }

    /// Checks that every Origin header is exactly one of the allowed origins.
    ///
    /// Browsers always send an Origin, and a page cannot forge or omit it. A client that sends none is not a
    /// browser.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let is_allowed =
            |origin: &HeaderValue| self.allowed_origins.iter().any(|a| a.as_bytes() == origin.as_bytes());
        let all_allowed = headers.get_all(header::ORIGIN).iter().all(is_allowed);
        if all_allowed { Ok(()) } else { Err(Rejection::Origin) }
    }
}

/// Rejects a credential in the URL. This check comes before all others, so that such a request always gets
/// its code.
pub(super) fn check_url(found: &Result<Presented, CredentialError>) -> Result<(), Rejection> {
    match found {
        Err(error @ CredentialError::InUrl(_)) => Err(error.clone().into()),
        _ => Ok(()),
    }
}
