//! Signature algorithms that the gateway accepts. Every other algorithm is rejected by name.

use jsonwebtoken::Algorithm;

/// Longest `kid` of a key or a token, in bytes.
pub const KID_BYTES_MAX: usize = 256;

/// Accepted signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Alg {
    /// All accepted algorithms.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// Parses the `alg` of a token's header, which has exactly one spelling.
    #[must_use]
    pub fn from_header(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// Whether the `alg` of a published key names this algorithm. RFC 9864 calls EdDSA on this curve Ed25519.
    pub(super) fn is_named(self, name: &str) -> bool {
        Self::from_header(name) == Some(self) || (self == Self::EdDsa && name == "Ed25519")
    }

    pub(super) fn for_library(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}
