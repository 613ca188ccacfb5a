//! The admin API of Supabase Auth: `GET /admin/users`, `GET` and `PUT /admin/users/{id}`.
//!
//! `PUT` merges `app_metadata`: keys that the request does not name stay, and a key with null is removed. The
//! API has no request that ends the sessions of another user.

mod client;
mod pace;
mod retry_after;
mod service_key;

use std::time::Duration;

use url::Url;

pub(super) use self::client::{AdminApi, ApiError};
pub use self::service_key::ServiceKey;

/// Options of the access to the admin API.
#[derive(Debug)]
pub struct ApiOptions {
    /// Base URL, such as `https://project.supabase.co/auth/v1`.
    pub url: Url,
    /// Key of the service role.
    pub key: ServiceKey,
    /// Most requests at the same time.
    pub concurrency: usize,
    /// Most requests a second.
    pub rate: u32,
    /// Attempts for each request.
    pub attempts: u32,
    /// Longest time of one attempt.
    pub timeout: Duration,
}
