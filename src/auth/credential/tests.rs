//! Tests of how the token of a request is found, and which requests are rejected.

use axum::http::{HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::shape::is_jwt_like;
use super::*;

const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";

fn find_in(uri: &str, headers: &[(&'static str, &str)]) -> Result<Presented, CredentialError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).expect("a header"));
    }
    find(&uri.parse().expect("a URI"), &map, None)
}

#[test]
fn the_authorization_header_is_accepted() {
    let presented = find_in("/socket/websocket?vsn=2.0.0", &[("authorization", &format!("Bearer {JWT}"))]);
    assert_eq!(presented, Ok(Presented { token: Token::new(JWT), wants_phoenix: false, is_cookie: false }));
    let presented = find_in("/", &[("authorization", &format!("bearer  {JWT} "))]);
    assert_eq!(presented.map(|p| p.token), Ok(Token::new(JWT)));
}

#[test]
fn the_subprotocol_is_accepted_in_both_alphabets() {
    // The encodings of these bytes differ between the alphabets.
    let token = "??>>~~.a.b";
    for encoded in [STANDARD_NO_PAD.encode(token), URL_SAFE_NO_PAD.encode(token)] {
        let offer = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}{encoded}");
        let presented = find_in("/", &[("sec-websocket-protocol", &offer)]);
        let expected = Presented { token: Token::new(token), wants_phoenix: true, is_cookie: false };
        assert_eq!(presented, Ok(expected));
    }
}

#[test]
fn only_the_configured_cookie_is_accepted() {
    let name: CookieName = "__Host-warden".parse().expect("a name");
    let in_cookies = |lines: &[&[u8]]| {
        let mut map = HeaderMap::new();
        for line in lines {
            map.append(header::COOKIE, HeaderValue::from_bytes(line).expect("a header"));
        }
        let uri = Uri::from_static("/socket/websocket");
        assert_eq!(find(&uri, &map, None), Err(CredentialError::Missing), "cookies are disabled");
        find(&uri, &map, Some(&name))
    };
    let expected = Presented { token: Token::new("a.b.c"), wants_phoenix: false, is_cookie: true };
    for lines in [
        &[&b"__Host-warden=a.b.c"[..]][..],
        &[b"x=1; __Host-warden=a.b.c; y=2"],
        &[b"x=\xff\xfe;__Host-warden=\"a.b.c\""],
        &[b"x=1", b"__Host-warden=a.b.c"],
        &[b"x=\"; __Host-warden=a.b.c"],
        &[b" __Host-warden = a.b.c ;"],
    ] {
        assert_eq!(in_cookies(lines), Ok(expected.clone()), "{lines:?}");
    }
    for lines in [&[&b"__host-warden=a.b.c"[..]][..], &[b"x__Host-warden=a.b.c"], &[b"x=__Host-warden"]] {
        assert_eq!(in_cookies(lines), Err(CredentialError::Missing), "{lines:?}");
    }
    for lines in [
        &[&b"__Host-warden=a.b.c; __Host-warden=d.e.f"[..]][..],
        &[b"__Host-warden=a.b.c", b"__Host-warden=a.b.c"],
    ] {
        assert_eq!(in_cookies(lines), Err(CredentialError::Several), "{lines:?}");
    }
    for line in [
        &b"__Host-warden"[..],
        b"__Host-warden=",
        b"__Host-warden=\"\"",
        b"__Host-warden=a b",
        b"__Host-warden=\"a",
        b"__Host-warden=\xc3\xa9",
        b"__Host-warden=\xff",
    ] {
        assert!(matches!(in_cookies(&[line]), Err(CredentialError::Malformed(_))), "{line:?}");
    }
    for invalid in ["", "a b", "a=b", "a;b", "\u{e9}"] {
        assert!(invalid.parse::<CookieName>().is_err(), "{invalid}");
    }
}

#[test]
fn exactly_one_token_is_required() {
    let entry = format!("{TOKEN_SUBPROTOCOL_PREFIX}{}", STANDARD_NO_PAD.encode(JWT));
    let bearer = format!("Bearer {JWT}");
    assert_eq!(find_in("/", &[]), Err(CredentialError::Missing));
    assert_eq!(find_in("/", &[("sec-websocket-protocol", "phoenix")]), Err(CredentialError::Missing));
    assert_eq!(
        find_in("/", &[("authorization", &bearer), ("sec-websocket-protocol", &format!("phoenix, {entry}"))]),
        Err(CredentialError::Several)
    );
    assert_eq!(
        find_in("/", &[("sec-websocket-protocol", &format!("phoenix, {entry}, {entry}"))]),
        Err(CredentialError::Several)
    );
    assert_eq!(
        find_in("/", &[("authorization", &bearer), ("authorization", &bearer)]),
        Err(CredentialError::Several)
    );
    assert_eq!(find_in("/", &[("sec-websocket-protocol", &entry)]), Err(CredentialError::Subprotocol));
    for malformed in ["Basic eDp5", "Bearer", "Bearer ", "Bearer a b", "Bearer a, Basic b", "Bearer\ta", JWT]
    {
        assert!(
            matches!(find_in("/", &[("authorization", malformed)]), Err(CredentialError::Malformed(_))),
            "{malformed}"
        );
    }
    let broken = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}***");
    assert!(matches!(
        find_in("/", &[("sec-websocket-protocol", &broken)]),
        Err(CredentialError::Malformed(_))
    ));
}

#[test]
fn every_url_with_a_credential_is_rejected() {
    let bearer = format!("Bearer {JWT}");
    for uri in [
        "/socket/websocket?token=abc".to_owned(),
        "/socket/websocket?vsn=2.0.0&access_token=abc".to_owned(),
        "/socket/websocket?ACCESS-TOKEN=abc".to_owned(),
        "/socket/websocket?%74oken=abc".to_owned(),
        "/socket/websocket?%2574oken=abc".to_owned(),
        "/socket/websocket?apikey=abc".to_owned(),
        "/socket/websocket?x-api-key=abc".to_owned(),
        "/socket/websocket?jwt".to_owned(),
        "/socket/websocket?auth=abc".to_owned(),
        "/socket/websocket?Authorization=abc".to_owned(),
        "/socket/websocket?a=1;token=abc".to_owned(),
        "/socket/websocket?params[token]=abc".to_owned(),
        format!("/socket/websocket?x={JWT}"),
        format!("/socket/websocket?x=Bearer%20{JWT}"),
        format!("/socket/websocket?{JWT}"),
        format!("/socket/websocket?x={}", JWT.replace('.', "%2E")),
        format!("/socket/{JWT}/websocket"),
        format!("/socket/websocket?x={TOKEN_SUBPROTOCOL_PREFIX}abc"),
        "/socket/websocket?a.token=abc".to_owned(),
        "/socket/websocket?user%5Bapi_key%5D%5B%5D=abc".to_owned(),
        "/socket/websocket?%252574oken=abc".to_owned(),
        "/socket/websocket?session_id=abc".to_owned(),
        "http://abc@host/socket/websocket".to_owned(),
        "/socket/websocket?x=eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.".to_owned(),
        "/socket/websocket?x=1&a_u_t_h=abc".to_owned(),
        "/socket/websocket?pass-word=abc".to_owned(),
        "/socket/websocket?+token+=abc".to_owned(),
        "/socket/websocket?JSON.web.token=1&X_Warden_Token=abc".to_owned(),
        "/socket/websocket?back=https%3A%2F%2Fx%2F%3Ftoken%3Dabc".to_owned(),
        "/socket/websocket?x=1%26access%5ftoken%3dabc".to_owned(),
        "/socket/websocket?x={%22a%22:1,%22accessToken%22:%22abc%22}".to_owned(),
        "/socket;token=abc/websocket".to_owned(),
        "/socket/websocket?back=%2Fcallback%23access_token%3Dabc".to_owned(),
        "/callback%23access_token=abc".to_owned(),
        "/socket/websocket?x=a,b=1|token=abc".to_owned(),
        "/socket/websocket%3Ftoken=abc".to_owned(),
        format!("/socket/websocket?%{}74oken=abc", "25".repeat(40)),
        format!("/socket/websocket?x={}", JWT.replace('.', &format!("%{}2e", "25".repeat(20)))),
        format!("/socket/websocket?x={}", TOKEN_SUBPROTOCOL_PREFIX.to_uppercase()),
    ] {
        let result = find_in(&uri, &[("authorization", &bearer)]);
        let Err(CredentialError::InUrl(shown)) = result else { panic!("{uri}: {result:?}") };
        assert!(!shown.contains("abc") && !shown.contains("eyJ"), "the error repeats the value: {shown}");
    }
    // The scan is linear, even if a token could begin at every third byte.
    assert!(!is_jwt_like(&"eyJ".repeat(1 << 20)));
    assert!(!is_jwt_like(&"e.".repeat(1 << 20)));
    let opening = URL_SAFE_NO_PAD.encode("{ ".repeat(1 << 14));
    assert!(!is_jwt_like(&format!("{opening}.a.b")));
    let keys = URL_SAFE_NO_PAD.encode(r#"{"\"#.repeat(1 << 14));
    assert!(!is_jwt_like(&format!("{keys}.a.b")));
}

#[test]
fn names_of_parameters_are_matched_whole() {
    let bearer = format!("Bearer {JWT}");
    for harmless in [
        "vsn=2.0.0",
        "vsn=2.0.0&app=1.2.3&keyboard=x&they=a.b.c",
        "business_id=1&class_id=2&os_id=3&bsid=4&hotkey=5&monkey=6&apikeyword=7&author=8",
        "tokens_used=1&tokenizer=x&auth_provider=x&key_id=1&public_key_id=x&secretary=x&sessions=3",
        "passwordless=1&jwt_kind=x&authorize_url=x&keys=1&donkey=x&broken=1&obsession=x&basic=1",
        "room=monkeybusiness.example-company.com&host=keyboards01.customers01.example.com",
        "columns=id,key,name&order=key.asc&filter=token,eq&at=12:30&x={a:1}&text=a+token+here",
        "x=eyeballs.eyewitness.eyJubmsi&filter=ey.ey.ey&x=e.e.e.e&v=eyJ.eyJ.eyJ",
    ] {
        let uri = format!("/socket/websocket?{harmless}");
        assert!(find_in(&uri, &[("authorization", &bearer)]).is_ok(), "{harmless}");
    }
}

#[test]
fn a_value_shaped_like_a_token_is_rejected_under_any_name() {
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"x"}"#);
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{ "alg": "HS256" }"#,
        "{\n  \"alg\": \"HS256\"\n}",
        "{\r\n\t\"alg\":\"none\"}",
        r#" {"typ":"JWT","alg":"RS256"}"#,
        r#"{"\u0061lg":"HS256"}"#,
        "  {\"alg\" :\"HS256\"}",
        &format!("{}{{\"alg\":\"HS256\"}}", " \n".repeat(50)),
        &format!("\t{{{}\"alg\":\"HS256\"}}", " ".repeat(33)),
        r#"{"":1,"alg":"HS256"}"#,
        r#"{"\"":1,"alg":"HS256"}"#,
        r#"{"\\":{},"alg":"HS256"}"#,
        r#"{"\u0022":1,"alg":"HS256"}"#,
        r#"{"é🔑":1,"alg":"HS256"}"#,
    ] {
        let header = URL_SAFE_NO_PAD.encode(header);
        for token in [
            format!("{header}.{claims}.c2ln"),
            format!("{header}.{claims}."),
            // An encrypted token has five parts, of which the second may be empty.
            format!("{header}..aXY.dGV4dA.dGFn"),
            format!("prefix-{}", format_args!("{header}.{claims}.c2ln")),
        ] {
            for uri in [
                format!("/?room={token}"),
                format!("/?{token}"),
                format!("/{token}"),
                format!("/?a=({token})"),
            ] {
                assert!(matches!(find_in(&uri, &[]), Err(CredentialError::InUrl(_))), "{uri}");
            }
        }
    }
}

#[test]
fn another_scheme_in_authorization_is_not_a_token() {
    let entry = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}{}", STANDARD_NO_PAD.encode(JWT));
    let offer = ("sec-websocket-protocol", entry.as_str());
    let bearer = format!("Bearer {JWT}");
    for other in [
        "Basic eDp5",
        "basic eDp5",
        "Digest username=\"x\", realm=\"a.example.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c0\"",
        "Negotiate YIIJvwYGKwYBBQUCoIIJszCCCa+gMDAuBgkqhkiC9xIBAgI=",
        "NTLM TlRMTVNTUAABAAAA",
        "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/execute-api/aws4_request",
        "Negotiate",
        "BearerX abc",
        "",
    ] {
        let in_subprotocol = find_in("/", &[("authorization", other), offer]);
        assert_eq!(in_subprotocol.map(|p| p.token), Ok(Token::new(JWT)), "{other}");
        for headers in [[other, &bearer], [&bearer, other]] {
            let beside = find_in("/", &headers.map(|value| ("authorization", value)));
            assert_eq!(beside.map(|p| p.token), Ok(Token::new(JWT)), "{other}");
        }
        assert!(find_in("/", &[("authorization", other)]).is_err(), "{other}");
    }
    // Another server might accept each of these as a token.
    for ambiguous in
        [JWT.to_owned(), format!("Token {JWT}"), format!("Basic x, {bearer}"), format!("\"{JWT}\"")]
    {
        let result = find_in("/", &[("authorization", &ambiguous), offer]);
        assert!(matches!(result, Err(CredentialError::Malformed(_))), "{ambiguous}: {result:?}");
    }
    assert_eq!(find_in("/", &[("authorization", "Bearer opaque"), offer]), Err(CredentialError::Several));
    // The parameters of other schemes may contain any bytes.
    let mut headers = HeaderMap::new();
    headers.append("authorization", HeaderValue::from_bytes(b"Digest username=\"\xff\"").expect("a header"));
    headers.append(offer.0, HeaderValue::from_str(offer.1).expect("a header"));
    assert!(find(&Uri::from_static("/"), &headers, None).is_ok());
}

proptest! {
    /// A list in a value or in the path may have any separator, also an encoded one.
    #[test]
    fn a_name_in_a_list_of_any_form_is_rejected(
        separator in "[^a-zA-Z0-9_.:%\\[\\]-]", before in "[a-z=/]{0,8}", in_path: bool, name in "[tT]oken|api[_-]?[kK]ey|sid"
    ) {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let list = format!("{}{}{name}=abc", encode(&before), encode(&separator));
        let uri = if in_path { format!("/{list}") } else { format!("/?x={list}") };
        let result = find_in(&uri, &[]);
        // Letters of other alphabets are part of a name.
        let is_part = separator.chars().all(char::is_alphanumeric);
        prop_assert!(is_part || matches!(result, Err(CredentialError::InUrl(_))), "{}: {:?}", uri, result);
    }

    /// A name with a letter before or after it is another name.
    #[test]
    fn a_longer_name_is_no_credential(
        name in prop::sample::select(&["token", "jwt", "sid", "key", "auth", "secret", "password"][..]),
        before in "[b-g]{0,3}",
        after in "[b-g]{0,3}",
    ) {
        let result = find_in(&format!("/?{before}{name}{after}=1"), &[("authorization", "Bearer a.b.c")]);
        prop_assert_eq!(result.is_ok(), !(before.is_empty() && after.is_empty()));
    }

    /// Neither the case nor the encoding of a name hides it.
    #[test]
    fn a_name_is_recognised_however_it_is_written(
        name in prop::sample::select(&["token", "access_token", "apiKey", "api-key", "jwt", "authorization"][..]),
        is_upper in prop::collection::vec(any::<bool>(), 16),
        encodings in prop::collection::vec(0..4_usize, 16),
    ) {
        let letters = name.chars().zip(is_upper).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c });
        let written: String = letters
            .zip(encodings)
            .map(|(c, times)| match times {
                0 => c.to_string(),
                _ => format!("%{}{:02x}", "25".repeat(times - 1), u32::from(c)),
            })
            .collect();
        let result = find_in(&format!("/?{written}=1"), &[("authorization", "Bearer a.b.c")]);
        prop_assert!(matches!(result, Err(CredentialError::InUrl(_))), "{}: {:?}", written, result);
    }
}
