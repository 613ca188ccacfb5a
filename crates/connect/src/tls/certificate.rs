//! A reader of X.509 certificates, for what rustls does not tell: version, validity, subject, key and hash.
//!
//! It decides nothing. A certificate that it cannot read is rejected.

use time::{Date, Month, Time};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The field `version` of a certificate.
const VERSION: u8 = 0xa0;
/// The field `extensions` of a certificate.
const EXTENSIONS: u8 = 0xa3;

/// 2.5.4.3, an attribute of names.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.19, an extension.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// 2.5.29.17, an extension.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// 1.2.840.113549.1.1, signatures by RSA. The next number tells the hash.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4, signatures by ECDSA. The next numbers tell the hash.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 2.16.840.1.101.3.4.2, hashes. The next number tells which.
const HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// The field `hashAlgorithm` of the parameters of RSASSA-PSS.
const PSS_HASH: u8 = 0xa0;

/// Hash of a certificate's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// MD5 or SHA-1.
    Weak,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Parts of a certificate, in DER.
pub(super) struct Certificate<'a> {
    /// The part that the issuer signed.
    pub(super) signed: &'a [u8],
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// 1 or 3.
    pub(super) version: u8,
    pub(super) issuer: &'a [u8],
    /// Seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) subject: &'a [u8],
    pub(super) public_key_info: &'a [u8],
    pub(super) key_algorithm: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) has_alternative_names: bool,
    /// Whether it may sign other certificates.
    pub(super) is_authority: bool,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate; `None` if it is not one.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let mut parts = Reader(Reader(der).expect(SEQUENCE)?);
        let signed = parts.next()?;
        let signature_algorithm = parts.expect(SEQUENCE)?;
        let signature = bits(parts.expect(BIT_STRING)?)?;
        let mut fields = Reader(signed.content);
        let mut version = 1;
        let first = fields.next()?;
        if first.tag == VERSION {
            // An INTEGER that is one less than the version. The serial number follows.
            version = first.content.last()?.checked_add(1)?;
            fields.next()?;
        }
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?;
        let mut validity = Reader(fields.expect(SEQUENCE)?);
        let (not_before, not_after) = (seconds(&validity.next()?)?, seconds(&validity.next()?)?);
        let subject = fields.expect(SEQUENCE)?;
        let key_info = fields.next()?;
        let mut key_parts = Reader(key_info.content);
        let key_algorithm = key_parts.expect(SEQUENCE)?;
        let key = bits(key_parts.expect(BIT_STRING)?)?;
        let mut ids = Vec::new();
        let mut is_authority = false;
        while let Some(field) = fields.next() {
            if field.tag == EXTENSIONS {
                let mut extensions = Reader(Reader(field.content).expect(SEQUENCE)?);
                while let Some(extension) = extensions.next() {
                    let id = Reader(extension.content).expect(OBJECT_ID)?;
                    is_authority |= id == BASIC_CONSTRAINTS && may_sign(extension.content);
                    ids.push(id);
                }
            }
        }
        Some(Self {
            signed: signed.all,
            signature_algorithm,
            signature,
            version,
            issuer,
            not_before,
            not_after,
            subject,
            public_key_info: key_info.all,
            key_algorithm,
            key,
            has_alternative_names: ids.contains(&ALTERNATIVE_NAMES),
            is_authority,
        })
    }

    /// Hash of the signature; `None` if the algorithm has none, such as Ed25519, or is unknown.
    pub(super) fn hash(&self) -> Option<Hash> {
        let mut parts = Reader(self.signature_algorithm);
        let id = parts.expect(OBJECT_ID)?;
        if let Some(n) = id.strip_prefix(RSA) {
            return match n {
                [4 | 5] => Some(Hash::Weak),
                [10] => hash_of_pss(parts.expect(SEQUENCE)?),
                [11] => Some(Hash::Sha256),
                [12] => Some(Hash::Sha384),
                [13] => Some(Hash::Sha512),
                [14] => Some(Hash::Sha224),
                _ => None,
            };
        }
        match id.strip_prefix(ECDSA)? {
            [1] => Some(Hash::Weak),
            [3, 1] => Some(Hash::Sha224),
            [3, 2] => Some(Hash::Sha256),
            [3, 3] => Some(Hash::Sha384),
            [3, 4] => Some(Hash::Sha512),
            _ => None,
        }
    }

    /// The last common name of the subject, which is the most specific one.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        let mut found = None;
        let mut names = Reader(self.subject);
        while let Some(name) = names.next().filter(|name| name.tag == SET) {
            let mut attribute = Reader(Reader(name.content).expect(SEQUENCE)?);
            if attribute.expect(OBJECT_ID)? == COMMON_NAME {
                let value = attribute.next()?.content;
                // A NUL would end the name for other readers.
                found = std::str::from_utf8(value).ok().filter(|name| !name.contains('\0'));
            }
        }
        found
    }
}

/// Hash in the parameters of RSASSA-PSS. The default is SHA-1.
fn hash_of_pss(parameters: &[u8]) -> Option<Hash> {
    let first = Reader(parameters).next();
    let Some(first) = first.filter(|first| first.tag == PSS_HASH) else { return Some(Hash::Weak) };
    match Reader(Reader(first.content).expect(SEQUENCE)?).expect(OBJECT_ID)?.strip_prefix(HASHES)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

/// One value in DER.
struct Item<'a> {
    tag: u8,
    content: &'a [u8],
    /// The value with its tag and length.
    all: &'a [u8],
}

/// Values that follow each other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Item<'a>> {
        let (&[tag, short], _) = self.0.split_first_chunk::<2>()?;
        let long = if short < 0x80 { 0 } else { usize::from(short & 0x7f) };
        let length = match long {
            0 => usize::from(short),
            1..=3 => self.0.get(2..2 + long)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            _ => return None,
        };
        let (start, end) = (2 + long, 2 + long + length);
        let item = Item { tag, content: self.0.get(start..end)?, all: self.0.get(..end)? };
        self.0 = &self.0[end..];
        Some(item)
    }

    /// Content of the next value, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|item| item.tag == tag).map(|item| item.content)
    }
}

/// Whether an extension with basic constraints begins with the flag of an authority.
fn may_sign(extension: &[u8]) -> bool {
    let mut parts = Reader(extension);
    let value = std::iter::from_fn(|| parts.next()).last();
    let constraints = value.filter(|value| value.tag == OCTET_STRING).map(|value| value.content);
    constraints.and_then(|content| Reader(Reader(content).expect(SEQUENCE)?).expect(BOOLEAN)) == Some(&[0xff])
}

/// Content of a BIT STRING of whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// Time in seconds since 1970. RFC 5280 allows one form of each type.
fn seconds(item: &Item<'_>) -> Option<i64> {
    let text = std::str::from_utf8(item.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match item.tag {
        UTC_TIME => {
            let year: i32 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |n: usize| rest.get(2 * n..2 * n + 2)?.parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(1)?).ok()?;
    let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
    (rest.len() == 10).then(|| date.with_time(time).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PublicKeyData as _, date_time_ymd,
    };

    use super::*;

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::OrganizationName, "An organisation");
        params.distinguished_name.push(DnType::CommonName, "db.example");
        params.not_before = date_time_ymd(2020, 2, 29);
        params.not_after = date_time_ymd(2051, 1, 1);
        params
    }

    #[test]
    fn parts_of_a_certificate_are_read() {
        let key = KeyPair::generate().expect("a key");
        let with_names = params(&["db.example"]).self_signed(&key).expect("a certificate");
        let read = Certificate::read(with_names.der()).expect("a certificate");
        assert_eq!(
            (read.version, read.common_name(), read.has_alternative_names),
            (3, Some("db.example"), true)
        );
        assert_eq!((read.not_before, read.not_after), (1_582_934_400, 2_556_144_000));
        assert_eq!(read.issuer, read.subject);
        assert_eq!(read.public_key_info, key.subject_public_key_info());
        assert!(!read.is_authority);
        let mut without = params(&[]);
        without.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let without = without.self_signed(&key).expect("a certificate");
        let read = Certificate::read(without.der()).expect("a certificate");
        assert!(read.is_authority && !read.has_alternative_names);
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_read_or_rejected(at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
            let key = KeyPair::generate().expect("a key");
            let mut der = params(&["a"]).self_signed(&key).expect("a certificate").der().to_vec();
            let at = at.index(der.len());
            der[at] = byte;
            if cut {
                der.truncate(at);
            }
            if let Some(read) = Certificate::read(&der) {
                read.common_name();
            }
        }
    }
}
