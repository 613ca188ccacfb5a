//! Tests of weak keys: each entry of these tables is a key that other libraries have accepted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use num_bigint::BigUint;
use serde_json::json;

use super::super::tests::{ec, ed, encoded, parse_one, parsed, rsa_of, with};
use super::*;
use crate::auth::Alg;

/// Points of Ed25519 for which anyone can forge signatures, or whose encoding is not the canonical one.
const WEAK_POINTS: [(&str, &str); 18] = [
    ("order 1", "0100000000000000000000000000000000000000000000000000000000000000"),
    ("order 2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ("order 4", "0000000000000000000000000000000000000000000000000000000000000000"),
    ("order 4, negative", "0000000000000000000000000000000000000000000000000000000000000080"),
    ("order 8", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ("order 8, negative", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    ("the other order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    ("the other order 8, negative", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    ("order 1, x = -0", "0100000000000000000000000000000000000000000000000000000000000080"),
    ("order 2, x = -0", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ("order 4, y = p", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ("order 4, y = p, negative", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ("order 1, y = p + 1", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ("order 1, y = p + 1, x = -0", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ("generator plus a point of order 8", "98519eadf35b995233b51b5cd23e9cc5a28b639b5a4af0ec903cb960d81b7819"),
    (
        "generator plus the point of order 2",
        "9599999999999999999999999999999999999999999999999999999999999999",
    ),
    ("another mixed order", "e9b2fe981587efae6478f48ba1fa60cec6126d0e26dde72a0a24f640dcd783e5"),
    ("not on the curve", "0200000000000000000000000000000000000000000000000000000000000000"),
];

/// x and y of P-256 that are no point of the curve.
const WEAK_P256: [(&str, &str, &str); 6] = [
    ("zero", ZERO, ZERO),
    ("y negated and incremented", P256_X, "f888aaef24712fc0d6c26539608bcf244582521ac3167dd661fb4862dd878c2f"),
    ("on the twist", "0000000000000000000000000000000000000000000000000000000000000001", ONE),
    ("x = p", "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff", ZERO),
    ("x of the generator, y = 1", "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296", ONE),
    ("all ones", MAX, MAX),
];
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const ONE: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const MAX: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const P256_X: &str = "7cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978";

/// Product of the primes up to 167, which the generator of CVE-2017-15361 uses.
fn primorial() -> BigUint {
    let is_prime = |n: &u32| (2..*n).all(|factor| !n.is_multiple_of(factor));
    (2_u32..=167).filter(is_prime).fold(BigUint::from(1_u32), |product, prime| product * prime)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn is_weak(key: serde_json::Value) -> bool {
    matches!(parse_one(key), Err(KeyError::Weak(_)))
}

fn rsa(n: &BigUint) -> serde_json::Value {
    json!({"kty": "RSA", "n": encoded(&n.to_bytes_be()), "e": "AQAB", "kid": "1"})
}

fn modulus(bits: u64) -> BigUint {
    let key = rsa_of(bits);
    let n = key["n"].as_str().expect("a modulus");
    BigUint::from_bytes_be(&URL_SAFE_NO_PAD.decode(n).expect("base64"))
}

/// The next prime number from this one.
fn prime_from(mut n: BigUint) -> BigUint {
    n |= BigUint::from(1_u32);
    let one = BigUint::from(1_u32);
    while (3_u32..1000).step_by(2).any(|factor| &n % factor == BigUint::ZERO)
        || BigUint::from(2_u32).modpow(&(&n - &one), &n) != one
    {
        n += 2_u32;
    }
    n
}

#[test]
fn weak_ed25519_keys_are_skipped() {
    for (name, hex) in WEAK_POINTS {
        assert!(is_weak(with(ed(), &json!({"x": encoded(&bytes(hex))}))), "{name}");
    }
    // The other y with two encodings: y + p fits into 255 bits.
    for last in [0xf0, 0xf1, 0xf2, 0xf3, 0xf6, 0xf7, 0xfb, 0xfc, 0xfd, 0xff] {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (last, 0x7f);
        let expected = Err(KeyError::Weak("its point is not encoded canonically"));
        assert_eq!(parse_one(with(ed(), &json!({"x": encoded(&point)}))), expected, "{last}");
    }
}

#[test]
fn points_that_are_not_on_p256_are_skipped() {
    for (name, x, y) in WEAK_P256 {
        assert!(is_weak(with(ec(), &json!({"x": encoded(&bytes(x)), "y": encoded(&bytes(y))}))), "{name}");
    }
}

#[test]
fn weak_rsa_exponents_are_skipped() {
    for e in ["", "AA", "AQ", "Ag", "Aw", "BQ", "EQ", "AP8", "__8", "AQAA", "AQAC", "AQAAAAE", "_____w8"] {
        assert!(is_weak(with(rsa_of(2048), &json!({"e": e}))), "{e}");
    }
    for e in ["AQAB", "AAEAAQ", "AQAD", "_____w"] {
        assert_eq!(parse_one(with(rsa_of(2048), &json!({"e": e}))), Ok(Alg::Rs256), "{e}");
    }
}

#[test]
fn rsa_moduli_that_are_easy_to_factor_are_skipped() {
    let big = BigUint::from(1_u32) << 1023;
    let (p, far) = (prime_from(&big + &big / 2_u32), prime_from(&big + &big / 3_u32 * 2_u32));
    assert_eq!(parse_one(rsa(&(&p * &far))), Ok(Alg::Rs256));
    // That generator makes primes k * M + 65537^a, where M is a product of small primes.
    let product = primorial();
    let roca = |k: &BigUint, a: u32| {
        let power = BigUint::from(65_537_u32).modpow(&BigUint::from(a), &product);
        let mut prime = k * &product + power;
        while (2_u32..8192).any(|factor| &prime % factor == BigUint::ZERO) {
            prime += &product;
        }
        prime
    };
    let long = (&big + &big / 10_u32 * 9_u32) / &product;
    for (n, reason) in [
        (&modulus(2048) + 1_u32, "small factor"),
        (&modulus(2047) * 3_u32, "small factor"),
        (&modulus(2040) * 8191_u32, "small factor"),
        ((BigUint::from(1_u32) << 2048) - 1_u32, "small factor"),
        (prime_from(BigUint::from(3_u32) << 2046), "a prime number"),
        (&p * &p, "a power"),
        (prime_from(BigUint::from(7_u32) << 700).pow(3), "a power"),
        (&p * prime_from(&p + 2_u32), "two close numbers"),
        (&p * prime_from(&p + (BigUint::from(1_u32) << 500)), "two close numbers"),
        (roca(&long, 7) * roca(&(&long - &long / 10_u32), 9), "faulty generator"),
    ] {
        let error = parse_one(rsa(&n)).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

#[test]
fn keys_with_a_published_private_key_are_skipped() {
    for (x, y) in [
        ("axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"),
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
        ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"),
        ("EVs_o5-uQbTjL3chynL4wXgUg2R9q9UU8I5mEovUf84", "kGe5DgSIycKp8w9aJmoHhB1sB3QTugfnRWm5nU_TzsY"),
    ] {
        assert!(is_weak(with(ec(), &json!({"x": x, "y": y}))), "{x}");
    }
    for x in ["WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"] {
        assert!(is_weak(with(ed(), &json!({"x": x}))), "{x}");
    }
    // The first bytes decide. The rest of these moduli is not the examples' own.
    for beginning in ["u1SU1LfVLPHC", "ofgWCuLjybRl", "0vx7agoebGcQ"] {
        let mut n = URL_SAFE_NO_PAD.decode(beginning).expect("base64");
        n.extend(modulus(2048).to_bytes_be().drain(n.len()..));
        assert!(is_weak(with(rsa_of(2048), &json!({"n": encoded(&n)}))), "{beginning}");
    }
}

#[test]
fn the_checks_of_one_document_are_bounded() {
    let document = |bits: u64, count: usize| parsed(&vec![with(rsa_of(bits), &json!({"kid": null})); count]);
    assert_eq!(document(2048, 64).keys.len(), 64);
    let long = document(8192, 8);
    assert_eq!((long.keys.len(), long.skipped.len()), (4, 4));
    assert_eq!(long.skipped[0], (4, KeyError::TooManyLong));
}
