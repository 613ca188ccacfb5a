//! One issuer of tokens: its keys, its audience, and its rules for claims. Nothing of one issuer counts
//! for another.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde_json::Value;
use uuid::Uuid;

use super::alg::Alg;
use super::claims::Claims;
use super::error::AuthError;
use super::fetch::KeyServerUrl;
use super::identity::Identity;
use super::keys::{KeyServer, NoKey};
use super::token::Token;
use super::unverified::{UnverifiedToken, decoded};

/// Clocks of issuer and gateway may differ by so much, in seconds, before a token counts as not valid
/// yet. Its end is taken to the letter: a session that begins after it would be closed at once.
const LEEWAY_SECONDS: u64 = 5;

/// `role` of back ends' tokens, where an issuer's rules say nothing else: what Supabase issues.
pub const SERVICE_ROLE: &str = "service_role";

/// Who signs tokens, and what they must be.
#[derive(Clone, Default)]
pub struct IssuerConfig {
    /// `iss`; without one any is taken, which only a sole issuer may have.
    pub issuer: Option<String>,
    /// `aud`; required.
    pub audience: String,
    /// HS256 secrets: the present one, and others that still count.
    pub secrets: Vec<String>,
    /// Where public keys are published.
    pub jwks_url: Option<KeyServerUrl>,
    /// What else tokens must be.
    pub rules: IssuerRules,
}

/// What an issuer's tokens must be besides signed, in time and for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerRules {
    /// `typ` of the header; without one `JWT`, `at+jwt` or none.
    pub typ: Option<String>,
    /// Claims that must be there as one of these texts.
    pub claims: BTreeMap<String, Vec<String>>,
    /// The organisations that this issuer may speak for; none: every one.
    pub orgs: Option<Vec<Uuid>>,
    /// `role` of its tokens for back ends, without one [`SERVICE_ROLE`]; an empty one: it makes none.
    pub service_role: Option<String>,
}

impl IssuerRules {
    /// Whether this claim `role` makes a token one of a back end.
    fn is_service(&self, role: Option<&str>) -> bool {
        let wanted = self.service_role.as_deref().unwrap_or(SERVICE_ROLE);
        !wanted.is_empty() && role == Some(wanted)
    }
}

/// See the module's documentation.
pub(super) struct Issuer {
    name: Option<Arc<str>>,
    secrets: Vec<DecodingKey>,
    pub(super) server: Option<KeyServer>,
    rules: IssuerRules,
    validations: Vec<(Alg, Validation)>,
}

impl Issuer {
    pub(super) fn new(config: &IssuerConfig, server: Option<KeyServer>) -> Self {
        Self {
            name: config.issuer.as_deref().map(Arc::from),
            secrets: config
                .secrets
                .iter()
                .map(|secret| DecodingKey::from_secret(secret.as_bytes()))
                .collect(),
            server,
            rules: config.rules.clone(),
            validations: Alg::ALL.into_iter().map(|alg| (alg, validation(config, alg))).collect(),
        }
    }

    /// Whether tokens can be verified now.
    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Verifies with keys that are in memory.
    pub(super) fn verify(&self, token: &Token, unverified: &UnverifiedToken) -> Result<Identity, AuthError> {
        self.check_type(unverified)?;
        if unverified.alg == Alg::Hs256 {
            return self.verify_with(token, unverified.alg, &self.secrets);
        }
        let server = self.server.as_ref().ok_or(AuthError::Signature)?;
        let key = server.find(unverified.alg, unverified.kid.as_deref())?;
        self.verify_with(token, unverified.alg, std::slice::from_ref(&key.key))
    }

    /// Asks the key server for the key first, and waits.
    pub(super) async fn verify_fetching(
        &self,
        token: &Token,
        unverified: &UnverifiedToken,
    ) -> Result<Identity, AuthError> {
        self.check_type(unverified)?;
        let server = self.server.as_ref().ok_or(AuthError::Signature)?;
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
                Err(wrong) => error = refusal(&wrong),
            }
            // Any other fault was found behind a good signature.
            if error != AuthError::Signature {
                break;
            }
        }
        Err(error)
    }

    /// Everything in here is verified.
    fn identity(&self, token: &Token, claims: Claims) -> Result<Identity, AuthError> {
        if !self.rules.claims.is_empty() {
            let payload = token.expose().split('.').nth(1).unwrap_or_default();
            let all: HashMap<String, Value> = decoded(payload)?;
            for (name, allowed) in &self.rules.claims {
                let value = all.get(name).and_then(Value::as_str);
                if !value.is_some_and(|value| allowed.iter().any(|one| one == value)) {
                    return Err(AuthError::Rule(name.as_str().into()));
                }
            }
        }
        let claims = claims.verified()?;
        if self.rules.orgs.as_ref().is_some_and(|orgs| !orgs.contains(&claims.org.as_uuid())) {
            return Err(AuthError::OrgOfAnother);
        }
        Ok(Identity {
            org: claims.org,
            issuer: self.name.clone(),
            subject: claims.subject,
            session_id: claims.session_id,
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
            topics: claims.topics,
            is_service: self.rules.is_service(claims.role.as_deref()),
        })
    }
}

/// One algorithm, which the server chose: the token's own word only selects among these.
fn validation(config: &IssuerConfig, alg: Alg) -> Validation {
    let mut validation = Validation::new(alg.for_library());
    validation.leeway = LEEWAY_SECONDS;
    // The library lets a token live through the very second of `exp`; RFC 7519 ends it there, and the
    // session does. `phoenix`, which comes back after 10 ms, was let in again dozens of times.
    validation.reject_tokens_expiring_in_less_than = LEEWAY_SECONDS + 1;
    validation.validate_exp = true;
    validation.validate_nbf = true;
    validation.validate_aud = true;
    validation.set_audience(&[&config.audience]);
    let mut required = vec!["exp", "sub", "aud"];
    if let Some(issuer) = &config.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn refusal(error: &Error) -> AuthError {
    match error.kind() {
        // The second is what the library says of an `exp` of the first seconds of 1970, from which it can't take
        // away what a token must still have; a token without three parts was told of before (`UnverifiedToken`).
        ErrorKind::ExpiredSignature | ErrorKind::InvalidToken => AuthError::Expired,
        ErrorKind::ImmatureSignature => AuthError::Immature,
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::InvalidKeyFormat => AuthError::Signature,
        ErrorKind::InvalidAudience => AuthError::Foreign("aud"),
        ErrorKind::InvalidIssuer => AuthError::Foreign("iss"),
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => AuthError::Malformed("the claim exp is missing, or not a number"),
            "aud" => AuthError::Malformed("the claim aud is missing"),
            "iss" => AuthError::Malformed("the claim iss is missing"),
            _ => AuthError::Malformed("the claim sub is missing"),
        },
        ErrorKind::Json(_) => AuthError::Malformed("a claim is missing or has the wrong type"),
        _ => AuthError::Malformed("not a signed JSON Web Token"),
    }
}

impl From<NoKey> for AuthError {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::UnknownKey,
            NoKey::Unnamed => {
                Self::Malformed("it names no key (kid), and its issuer has several of its algorithm")
            }
            NoKey::Unavailable => Self::KeysUnavailable,
        }
    }
}
