//! Public keys that are well-formed but weak: anyone can forge signatures that they verify.
//!
//! RFC 8725, section 3.4 requires such checks. Those of RSA follow NIST SP 800-89, section 5.3.3, and the
//! Baseline Requirements of the CA/Browser Forum, section 6.1.1.3. This module does not parse keys.

#[cfg(test)]
mod tests;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use num_bigint::BigUint;

use super::key::KeyError;

/// Smallest RSA exponent (FIPS 186-5, section A.1.1).
const RSA_EXPONENT_MIN: u32 = 65_537;

/// Longest RSA exponent, in bytes.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// End of the search for small factors of an RSA modulus. SP 800-89 requires 752.
const SMALL_FACTORS_END: u32 = 8192;

/// Bits of every factor that the search does not find.
const FACTOR_BITS_MIN: u64 = 13;

/// Rounds of Fermat's factorisation, which finds two primes that are close to each other.
const CLOSE_PRIMES_ROUNDS: usize = 100;

/// Cost of checking a modulus of 1,024 bits. The cost grows with the cube of the length.
const COST_UNIT_BITS: usize = 1024;

/// Total cost of the moduli of one document: 64 keys of 2,048 bits and 24 of 4,096, or 4 of 8,192.
const COST_MAX: usize = 2048;

/// Small primes for which a modulus of the faulty generator of CVE-2017-15361 (ROCA) is a power of 65,537.
const ROCA_PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

/// Beginnings of the moduli and coordinates of keys whose private key everyone knows.
const KNOWN_PRIVATE_KEYS: [[u8; 8]; 9] = [
    // The generators of P-256 and Ed25519: their private key is 1.
    [0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47],
    [0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66],
    // RFC 7515, sections A.2 and A.3.
    [0xa1, 0xf8, 0x16, 0x0a, 0xe2, 0xe3, 0xc9, 0xb4],
    [0x7f, 0xcd, 0xce, 0x27, 0x70, 0xf6, 0xc4, 0x5d],
    // RFC 7517, section A.2: RSA and P-256.
    [0xd2, 0xfc, 0x7b, 0x6a, 0x0a, 0x1e, 0x6c, 0x67],
    [0x30, 0xa0, 0x42, 0x4c, 0xd2, 0x1c, 0x29, 0x44],
    // RFC 8037, section A.1.
    [0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7],
    // The examples of jwt.io for RS256 and ES256.
    [0xbb, 0x54, 0x94, 0xd4, 0xb7, 0xd5, 0x2c, 0xf1],
    [0x11, 0x5b, 0x3f, 0xa3, 0x9f, 0xae, 0x41, 0xb4],
];

/// Remaining cost of the checks of one document's RSA keys. It keeps a document from occupying a thread.
pub(super) struct CheckBudget(usize);

impl Default for CheckBudget {
    fn default() -> Self {
        Self(COST_MAX)
    }
}

impl CheckBudget {
    fn spend(&mut self, bits: usize) -> Result<(), KeyError> {
        let cost = bits.div_ceil(COST_UNIT_BITS).pow(3);
        self.0 = self.0.checked_sub(cost).ok_or(KeyError::TooManyLong)?;
        Ok(())
    }
}

/// Checks an Ed25519 key. For a point of small order, a signature without a private key verifies.
pub(super) fn check_ed25519(bytes: &[u8]) -> Result<(), KeyError> {
    let compressed = CompressedEdwardsY::from_slice(bytes).map_err(|_| KeyError::Malformed)?;
    let point = compressed.decompress().ok_or(KeyError::Weak("it is not a point on its curve"))?;
    if point.compress() != compressed {
        return Err(KeyError::Weak("its point is not encoded canonically"));
    }
    if point.is_small_order() {
        return Err(KeyError::Weak("its point has a small order"));
    }
    if !point.is_torsion_free() {
        return Err(KeyError::Weak("its point is not in the group of prime order"));
    }
    check_known(bytes)
}

/// Checks an uncompressed point on P-256. The curve has a prime order, so every point on it is good.
pub(super) fn check_p256(x: &[u8], uncompressed: &[u8]) -> Result<(), KeyError> {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, uncompressed)
        .map_err(|_| KeyError::Weak("it is not a point on its curve"))?;
    check_known(x)
}

fn check_known(coordinate: &[u8]) -> Result<(), KeyError> {
    if KNOWN_PRIVATE_KEYS.iter().any(|known| coordinate.starts_with(known)) {
        return Err(KeyError::Weak("its private key is public knowledge"));
    }
    Ok(())
}

/// Checks the exponent of an RSA key, given without leading zeros.
pub(super) fn check_rsa_exponent(e: &[u8]) -> Result<(), KeyError> {
    let value = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if e.len() > RSA_EXPONENT_BYTES_MAX || value < u64::from(RSA_EXPONENT_MIN) || value % 2 == 0 {
        return Err(KeyError::Weak("its RSA exponent is not an odd number from 65537 to 4294967295"));
    }
    Ok(())
}

/// Checks the modulus of an RSA key: it must not have factors that are easy to find.
pub(super) fn check_rsa_modulus(n: &[u8], budget: &mut CheckBudget) -> Result<(), KeyError> {
    check_known(n)?;
    budget.spend(n.len() * 8)?;
    let n = BigUint::from_bytes_be(n);
    let two = BigUint::from(2_u32);
    if (2..SMALL_FACTORS_END).any(|factor| &n % factor == BigUint::ZERO) {
        return Err(KeyError::Weak("its RSA modulus has a small factor"));
    }
    if ROCA_PRIMES.iter().all(|prime| is_power_of_65537(&(&n % *prime), *prime)) {
        return Err(KeyError::Weak("its RSA modulus comes from a faulty generator (CVE-2017-15361)"));
    }
    if two.modpow(&(&n - 1_u32), &n) == BigUint::from(1_u32) {
        return Err(KeyError::Weak("its RSA modulus is a prime number"));
    }
    if is_power(&n) {
        return Err(KeyError::Weak("its RSA modulus is a power of a number"));
    }
    if has_close_factors(&n) {
        return Err(KeyError::Weak("its RSA modulus is the product of two close numbers"));
    }
    Ok(())
}

/// Whether a residue is a power of 65,537 modulo a small prime.
fn is_power_of_65537(residue: &BigUint, prime: u32) -> bool {
    let generator = 65_537 % prime;
    let mut power = 1;
    (0..prime).any(|_| {
        let is_equal = *residue == BigUint::from(power);
        power = power * generator % prime;
        is_equal
    })
}

/// Whether a number without small factors is a power of another number.
fn is_power(n: &BigUint) -> bool {
    let exponents = 2..=u32::try_from(n.bits() / FACTOR_BITS_MIN).unwrap_or(u32::MAX);
    let is_prime = |k: &u32| (2..*k).all(|factor| !k.is_multiple_of(factor));
    exponents.filter(is_prime).any(|k| n.nth_root(k).pow(k) == *n)
}

/// Whether an odd number is a difference of squares a² - b², where a is close to its root.
fn has_close_factors(n: &BigUint) -> bool {
    let mut a = n.sqrt() + 1_u32;
    (0..CLOSE_PRIMES_ROUNDS).any(|_| {
        let square = &a * &a - n;
        a += 1_u32;
        // A square is 0, 1, 4 or 9 modulo 16, which spares most of the roots.
        let residue = &square % 16_u32;
        [0_u32, 1, 4, 9].iter().any(|low| residue == BigUint::from(*low)) && square.sqrt().pow(2) == square
    })
}
