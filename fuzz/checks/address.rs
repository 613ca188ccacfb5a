//! The client's address behind proxies. For every input: no panic, only a trusted proxy is believed, and
//! whatever a client sent, the address that the proxy adds is used.
//!
//! An input is a byte whose lowest bit selects the header, then the lines of that header.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use warden::http::{ForwardedHeader, Proxies, parse_network};

pub(crate) fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let (header, name, added) = if choice & 1 == 0 {
        (ForwardedHeader::XForwardedFor, HeaderName::from_static("x-forwarded-for"), "198.51.100.7")
    } else {
        (ForwardedHeader::Forwarded, HeaderName::from_static("forwarded"), "for=198.51.100.7;proto=https")
    };
    let proxies = Proxies { trusted: vec![parse_network("10.0.0.0/8").expect("a network")], header };
    let mut headers = HeaderMap::new();
    for line in rest.split(|byte| *byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name.clone(), value);
        }
    }
    let stranger = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(proxies.client(stranger, &headers), stranger, "an untrusted peer was believed");
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let address = proxies.client(proxy, &headers);
    assert_eq!(address.to_canonical(), address, "an address has one form");
    // Some proxies append a line, others append to the last line. The latter requires that the line is valid
    // text.
    let expected = IpAddr::from([198, 51, 100, 7]);
    if header == ForwardedHeader::XForwardedFor
        && let Some(last) = headers.get_all(&name).iter().next_back().and_then(|line| line.to_str().ok())
    {
        let mut joined = HeaderMap::new();
        joined.append(name.clone(), HeaderValue::try_from(format!("{last}, {added}")).expect("text"));
        assert_eq!(proxies.client(proxy, &joined), expected);
    }
    headers.append(name, HeaderValue::from_static(added));
    assert_eq!(proxies.client(proxy, &headers), expected, "the address that the proxy added was not used");
}
