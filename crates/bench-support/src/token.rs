//! Access tokens of a run: HS256, each for a new user of one organisation.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Secret and claims that all tokens of a run share. It has no `Debug`, so that the secret cannot get into a
/// log.
#[derive(Serialize, Deserialize, Clone)]
pub struct TokenSettings {
    /// The gateway's HS256 secret.
    pub secret: String,
    /// Claim `aud`.
    pub audience: String,
    /// Claim `iss`, if the gateway requires one.
    pub issuer: Option<String>,
    /// Seconds until a token expires.
    pub lifetime_seconds: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: Uuid,
    aud: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    iat: u64,
    exp: u64,
    role: &'a str,
    app_metadata: AppMetadata,
}

#[derive(Serialize)]
struct AppMetadata {
    org_id: Uuid,
}

/// Signs the tokens of one run.
pub struct TokenSigner {
    key: EncodingKey,
    settings: TokenSettings,
}

impl TokenSigner {
    /// Creates a signer.
    pub fn new(settings: TokenSettings) -> Self {
        Self { key: EncodingKey::from_secret(settings.secret.as_bytes()), settings }
    }

    /// Issues a token for a new user of an organisation.
    pub fn token(&self, org_id: Uuid) -> anyhow::Result<String> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since_1970.context("the clock of this machine is before 1970: set it")?.as_secs();
        let claims = Claims {
            sub: Uuid::new_v4(),
            aud: &self.settings.audience,
            iss: self.settings.issuer.as_deref(),
            iat: now,
            exp: now + self.settings.lifetime_seconds,
            role: "authenticated",
            app_metadata: AppMetadata { org_id },
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .context("cannot sign a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_organisation() {
        use jsonwebtoken::{DecodingKey, Validation};
        let signer = TokenSigner::new(TokenSettings {
            secret: "secret".to_owned(),
            audience: "authenticated".to_owned(),
            issuer: None,
            lifetime_seconds: 60,
        });
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["authenticated"]);
        let token = signer.token(Uuid::from_u128(9)).unwrap();
        let key = DecodingKey::from_secret(b"secret");
        let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!(claims["app_metadata"]["org_id"], Uuid::from_u128(9).to_string());
        assert_eq!(claims["role"], "authenticated");
    }
}
