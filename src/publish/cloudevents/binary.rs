//! The binary mode of CloudEvents: attributes in headers, data in the body.

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::super::batch::{BodyError, EventBatch};
use super::super::{json, strict};
use super::attributes::Attributes;

/// An attribute's header: its name without `ce-`, in lower case, and its value.
pub type Header<'a> = (&'a str, &'a [u8]);

/// Reads one event in the binary mode. An empty body is an event without data.
///
/// # Errors
/// If the body is not JSON.
pub fn parse<'a>(headers: impl Iterator<Item = Header<'a>>, body: &[u8]) -> Result<EventBatch, BodyError> {
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        match decode(value) {
            // The media type is in Content-Type, so that there is one.
            _ if name == "datacontenttype" => {
                attributes.problem("datacontenttype is the header Content-Type in this mode".to_owned());
            }
            Some(value) => attributes.insert(name, value),
            None => attributes.problem(format!("{name} is not percent-encoded UTF-8")),
        }
    }
    let data: Option<&RawValue> = if body.is_empty() { None } else { Some(json::one(body)?) };
    if let Some(Err(broken)) = data.map(|data| strict::check(data.get())) {
        attributes.problem(broken.to_string());
    }
    let mut batch = EventBatch::default();
    attributes.push_to(&mut batch, data);
    Ok(batch.finish())
}

/// Decodes a header: double quotes around the value, then percent-encoding.
fn decode(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii())?.trim();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = match quoted {
        Some(quoted) => unescape(quoted)?,
        None => text.to_owned(),
    };
    let is_encoded = text.match_indices('%').all(|(at, _)| {
        text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !is_encoded {
        return None;
    }
    percent_decode_str(&text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Removes the backslashes of a quoted string.
fn unescape(quoted: &str) -> Option<String> {
    let mut chars = quoted.chars();
    let mut text = String::with_capacity(quoted.len());
    while let Some(next) = chars.next() {
        match next {
            '\\' => text.push(chars.next()?),
            '"' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [Header<'_>; 5] = [
        ("specversion", b"1.0"),
        ("id", b"1"),
        ("source", b"/shop"),
        ("type", b"invoice.paid"),
        ("subject", b"invoices"),
    ];

    #[test]
    fn headers_and_body_become_an_event() {
        let batch = parse(GOOD.into_iter(), b" [1, 2.50]").expect("JSON");
        assert_eq!(batch.json, r#"[{"topic":"invoices","event":"invoice.paid","data":[1, 2.50]}]"#);
        assert_eq!(batch.problems, []);
        assert_eq!(
            parse(GOOD.into_iter(), b"").expect("no data").json,
            r#"[{"topic":"invoices","event":"invoice.paid"}]"#
        );
        assert!(parse(GOOD.into_iter(), b"text").is_err());
        assert_eq!(parse(GOOD.into_iter(), b"{\"a\":1,\"a\":1}").expect("JSON").problems.len(), 1);
    }

    #[test]
    fn values_are_decoded_and_problems_named() {
        for (value, decoded) in [
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro € 😀")),
            ("\"with \\\"quotes\\\" and %25\"", Some("with \"quotes\" and %")),
            (" plain ", Some("plain")),
            ("100%", None),
            ("%zz", None),
            ("%E2%82", None),
            ("€", None),
            ("\"a\\\"", None),
            ("\"a\"b\"", None),
        ] {
            assert_eq!(decode(value.as_bytes()).as_deref(), decoded, "{value}");
        }
        let with =
            |header: Header<'static>| parse(GOOD.into_iter().chain([header]), b"1").expect("JSON").problems;
        for (header, part) in [
            (("id", &b"2"[..]), "id occurs twice"),
            (("datacontenttype", b"application/json"), "Content-Type"),
            (("x-y", b"1"), "not the name of an attribute"),
            (("trace", b"%00"), "control characters"),
            (("trace", b"%"), "percent-encoded"),
        ] {
            assert!(with(header)[0].detail.contains(part), "{:?}", with(header));
        }
        assert_eq!(with(("trace", b"1")), []);
        let missing = parse([("type", &b"a"[..])].into_iter(), b"1").expect("JSON").problems;
        assert!(missing[0].detail.contains("specversion is missing"), "{missing:?}");
    }
}
