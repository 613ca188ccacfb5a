//! Signature algorithms that the gateway accepts.

use jsonwebtoken::Algorithm;

/// Longest `kid`, in bytes, of a key and of a token.
pub const KID_BYTES_MAX: usize = 256;

/// The algorithms that are verified; everything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// HMAC with SHA-256, of a shared secret.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Alg {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// Reads the `alg` of a token's header, in its one spelling.
    #[must_use]
    pub fn of_token(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// Whether a key that names this algorithm is for ours; RFC 9864 calls EdDSA on this curve Ed25519.
    pub(super) fn is_named(self, name: &str) -> bool {
        Self::of_token(name) == Some(self) || (self == Self::EdDsa && name == "Ed25519")
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
