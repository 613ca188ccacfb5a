//! Detection of credentials in a URL.

use axum::http::Uri;

use super::error::CredentialError;
use super::shape::{credential_name, decode, is_jwt_like};

/// Fails if the URL contains a credential, or something that looks like one.
pub(super) fn reject_credential_in_url(uri: &Uri) -> Result<(), CredentialError> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(CredentialError::InUrl("a user before the host".to_owned()));
    }
    let path = decode(uri.path());
    if is_jwt_like(&path) {
        return Err(CredentialError::InUrl("a token in the path".to_owned()));
    }
    // Parameters of the path (`;token=...`), and a query whose `?` is encoded. A segment alone is no name.
    let in_path = path.split(['/', ';', '?', '&']).filter(|piece| piece.contains('='));
    let query = decode(uri.query().unwrap_or_default());
    for pair in in_path.chain(query.split(['&', ';', '?'])) {
        let mut names = names(pair);
        if let Some(forbidden) = names.find_map(credential_name).or_else(|| name_in_json(pair)) {
            // The error shows the entry of the list, because the sent name could itself be a secret.
            return Err(CredentialError::InUrl(format!("a parameter named {forbidden:?}")));
        }
    }
    if is_jwt_like(&query) {
        return Err(CredentialError::InUrl("a value shaped like a token".to_owned()));
    }
    Ok(())
}

/// Names of a pair: what precedes the first `=`, and the last name before each of them, because the pair may
/// contain a list of any form (`a=b,token=c`, `a=/b#token=c`).
fn names(pair: &str) -> impl Iterator<Item = &str> {
    let is_name_char = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']' | ':' | '%');
    let first = pair.split('=').next().unwrap_or_default();
    // What follows the last `=` is a value.
    let nested = pair.split('=').take(pair.matches('=').count());
    let nested = nested.map(move |part| &part[part.trim_end_matches(is_name_char).len()..]);
    std::iter::once(first).chain(nested)
}

/// The name of a credential among the keys of a JSON object.
fn name_in_json(value: &str) -> Option<&'static str> {
    let entries = value.split_once('{').map(|(_, entries)| entries.split(['{', '}', ',']));
    entries?.filter_map(|entry| entry.split_once(':')).find_map(|(name, _)| credential_name(name))
}
