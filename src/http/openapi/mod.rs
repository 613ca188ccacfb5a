//! Parts of the OpenAPI document that the annotations of the handlers name, or cannot express.
//!
//! | file | content |
//! |---|---|
//! | `errors` | rejections by kind of request |
//! | `schemas` | JSON that the gateway reads or writes as text |
//!
//! [`super::routes`] builds the document. This module must not know the handlers.

mod errors;
mod schemas;

pub(super) use errors::{
    CoversErrors, DocumentErrors, PageErrors, ProbeErrors, PublishErrors, RevocationErrors, RowErrors,
};
pub(super) use schemas::schemas;

/// Tag of the routes that read rows.
pub(super) const ROWS: &str = "Rows";
/// Tag of the route for questions.
pub(super) const TRANSACTIONS: &str = "Transactions";
/// Tag of the routes for back ends.
pub(super) const BACK_ENDS: &str = "Back ends";
/// Tag of the routes for balancers.
pub(super) const PROBES: &str = "Probes";
/// Tag of the document itself.
pub(super) const DOCUMENT: &str = "Document";
