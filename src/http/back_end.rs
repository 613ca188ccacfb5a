//! The check of a back end, which its routes share.
//!
//! The caller is checked before the body is read. This module must not know what a route does.

use axum::extract::Request;

use super::error::Rejection;
use super::gatekeeper::Gatekeeper;
use crate::audit_trail::TokenHash;
use crate::auth::Identity;

/// A verified back end.
pub(super) struct BackEnd {
    pub(super) identity: Identity,
    pub(super) token: TokenHash,
}

/// Checks that the request has the valid token of a back end whose organisation exists. Reads nothing of the
/// body.
pub(super) async fn verify(gatekeeper: &Gatekeeper, request: &Request<()>) -> Result<BackEnd, Rejection> {
    let token = gatekeeper.bearer_token(request)?;
    let identity = gatekeeper.verify_back_end(gatekeeper.address(request), &token).await?;
    gatekeeper.check_org(identity.org).await?;
    Ok(BackEnd { identity, token: token.hash() })
}
