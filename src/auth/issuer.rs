//! One issuer of tokens: its keys, its audience and its rules for claims. Issuers share nothing, so a key or
//! rule of one issuer never applies to another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde_json::Value;
use uuid::Uuid;

use super::alg::Alg;
use super::claims::Claims;
use super::clock::IssuerClock;
use super::error::AuthError;
use super::fetch::KeyServerUrl;
use super::identity::{ClaimsJson, Identity};
use super::key_server::{KeyLookupError, KeyServer};
use super::token::Token;
use super::unverified::{UnverifiedToken, decode_part};
use crate::metrics::Metrics;

/// Default `role` of tokens for back ends, as Supabase issues them.
pub const SERVICE_ROLE: &str = "service_role";

/// Configuration of one issuer.
#[derive(Clone, Default)]
pub struct IssuerConfig {
    /// Required `iss`. Without it any `iss` is accepted, which is allowed only if there is no other issuer.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: String,
    /// HS256 secrets: the current one, and earlier ones that are still valid.
    pub secrets: Vec<String>,
    /// Address at which the issuer publishes its keys.
    pub jwks_url: Option<KeyServerUrl>,
    /// Further rules for tokens.
    pub rules: IssuerRules,
}

/// Rules for an issuer's tokens, in addition to signature, times and audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerRules {
    /// Required `typ` of the header. Without it `JWT`, `at+jwt` and an absent `typ` are accepted.
    pub typ: Option<String>,
    /// Claims that must be present, each with one of these strings.
    pub claims: BTreeMap<String, Vec<String>>,
    /// Organisations for which this issuer may issue tokens. None means all.
    pub orgs: Option<Vec<Uuid>>,
    /// `role` of the issuer's tokens for back ends; [`SERVICE_ROLE`] by default. If it is empty, the issuer
    /// issues no tokens for back ends.
    pub service_role: Option<String>,
    /// Whether all tokens of the issuer belong to back ends, whatever their `role` is, and open no sockets.
    pub backends_only: bool,
}

impl IssuerRules {
    /// Whether a token with this claim `role` belongs to a back end.
    fn is_service(&self, role: Option<&str>) -> bool {
        let service_role = self.service_role.as_deref().unwrap_or(SERVICE_ROLE);
        self.backends_only || !service_role.is_empty() && role == Some(service_role)
    }
}

/// Verifies the tokens of one issuer.
pub(super) struct Issuer {
    name: Option<Arc<str>>,
    secrets: Vec<DecodingKey>,
    pub(super) key_server: Option<KeyServer>,
    rules: IssuerRules,
    clock: IssuerClock,
    validations: Vec<(Alg, Validation)>,
}

impl Issuer {
    pub(super) fn new(config: &IssuerConfig, key_server: Option<KeyServer>, metrics: Arc<Metrics>) -> Self {
        Self {
            name: config.issuer.as_deref().map(Arc::from),
            secrets: config
                .secrets
                .iter()
                .map(|secret| DecodingKey::from_secret(secret.as_bytes()))
                .collect(),
            key_server,
            rules: config.rules.clone(),
            clock: IssuerClock::new(config.issuer.as_deref(), metrics),
            validations: Alg::ALL.into_iter().map(|alg| (alg, validation(config, alg))).collect(),
        }
    }

    /// Whether this issuer has secrets, which need no key server.
    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Verifies a token with the keys in memory.
    pub(super) fn verify(&self, token: &Token, unverified: &UnverifiedToken) -> Result<Identity, AuthError> {
        self.check_type(unverified)?;
        if unverified.alg == Alg::Hs256 {
            return self.verify_with(token, unverified.alg, &self.secrets);
        }
        let server = self.key_server.as_ref().ok_or(AuthError::Signature)?;
        let key = server.find(unverified.alg, unverified.kid.as_deref())?;
        self.verify_with(token, unverified.alg, std::slice::from_ref(&key.key))
    }

    /// Verifies a token after its key was fetched from the key server.
    pub(super) async fn verify_fetching(
        &self,
        token: &Token,
        unverified: &UnverifiedToken,
    ) -> Result<Identity, AuthError> {
        self.check_type(unverified)?;
        let server = self.key_server.as_ref().ok_or(AuthError::Signature)?;
        let key = server.find_or_fetch(unverified.alg, unverified.kid.as_deref()).await?;
        self.verify_with(token, unverified.alg, std::slice::from_ref(&key.key))
    }

    fn check_type(&self, unverified: &UnverifiedToken) -> Result<(), AuthError> {
        if unverified.has_type(self.rules.typ.as_deref()) { Ok(()) } else { Err(AuthError::Type) }
    }

    fn verify_with(&self, token: &Token, alg: Alg, keys: &[DecodingKey]) -> Result<Identity, AuthError> {
        let validation = self.validations.iter().find(|(of, _)| *of == alg).map(|(_, validation)| validation);
        let validation = validation.ok_or(AuthError::Signature)?;
        let mut error = AuthError::Signature;
        for key in keys {
            match decode::<Claims>(token.expose(), key, validation) {
                Ok(data) => return self.identity(token, data.claims),
                Err(cause) => error = auth_error(&cause),
            }
            // Every other error means that this key verified the signature.
            if error != AuthError::Signature {
                break;
            }
        }
        Err(error)
    }

    /// Checks the times and applies the issuer's rules to a token whose signature and audience are verified.
    fn identity(&self, token: &Token, claims: Claims) -> Result<Identity, AuthError> {
        let validity = claims.validity()?;
        let now = SystemTime::now();
        let checked = validity.check(now);
        if let Some(issued_at) = validity.issued_at {
            self.clock.observe(issued_at, now, &checked);
        }
        checked?;
        if !self.rules.claims.is_empty() {
            let all: HashMap<String, Value> = decode_part(payload(token))?;
            for (name, allowed) in &self.rules.claims {
                let value = all.get(name).and_then(Value::as_str);
                if !value.is_some_and(|value| allowed.iter().any(|one| one == value)) {
                    return Err(AuthError::ClaimRule(name.as_str().into()));
                }
            }
        }
        let claims = claims.check()?;
        let all = token.claims_json().ok_or(AuthError::Malformed("its payload is not UTF-8"))?;
        if self.rules.orgs.as_ref().is_some_and(|orgs| !orgs.contains(&claims.org.as_uuid())) {
            return Err(AuthError::OrgNotAllowed);
        }
        Ok(Identity {
            org: claims.org,
            issuer: self.name.clone(),
            subject: claims.subject,
            session_id: claims.session_id,
            issued_at: validity.issued_at,
            expires_at: validity.expires_at,
            topics: claims.topics,
            filters: claims.filters,
            is_service: self.rules.is_service(claims.role.as_deref()),
            backends_only: self.rules.backends_only,
            claims: ClaimsJson::new(&all),
        })
    }
}

/// The library's validation for one algorithm. The token's header only selects one of these validations.
fn validation(config: &IssuerConfig, alg: Alg) -> Validation {
    let mut validation = Validation::new(alg.for_library());
    // `Validity` checks the times, because the library rounds them to whole seconds.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = true;
    validation.set_audience(&[&config.audience]);
    let mut required = vec!["sub", "aud"];
    if let Some(issuer) = &config.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn auth_error(error: &Error) -> AuthError {
    match error.kind() {
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::InvalidKeyFormat => AuthError::Signature,
        ErrorKind::InvalidAudience => AuthError::UnexpectedClaim("aud"),
        ErrorKind::InvalidIssuer => AuthError::UnexpectedClaim("iss"),
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => AuthError::Malformed("claim aud is missing"),
            "iss" => AuthError::Malformed("claim iss is missing"),
            _ => AuthError::Malformed("claim sub is missing"),
        },
        ErrorKind::Json(_) => AuthError::Malformed("a claim is missing or has the wrong type"),
        _ => AuthError::Malformed("it is not a signed JSON Web Token"),
    }
}

fn payload(token: &Token) -> &str {
    token.expose().split('.').nth(1).unwrap_or_default()
}

impl From<KeyLookupError> for AuthError {
    fn from(error: KeyLookupError) -> Self {
        match error {
            KeyLookupError::Unknown => Self::UnknownKey,
            KeyLookupError::Ambiguous => {
                Self::Malformed("it names no key (kid), and its issuer has several keys for its algorithm")
            }
            KeyLookupError::Unavailable => Self::KeysUnavailable,
        }
    }
}
