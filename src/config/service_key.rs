//! The key of Supabase's service role. No flag takes it, because other users see the arguments of a process.

/// Environment variable of the key.
pub(crate) const SERVICE_KEY_VARIABLE: &str = "WARDEN_SERVICE_KEY";

/// Key in the environment. None if the variable is not set, or is not text.
pub(crate) fn service_key() -> Option<String> {
    std::env::var(SERVICE_KEY_VARIABLE).ok()
}
