//! Address of a client: the peer's own, or the one that a trusted proxy reports.
//!
//! Any client can send `X-Forwarded-For`, so it is read only if the peer is a configured proxy. The list is
//! read from the right, hop by hop, while each hop is a trusted proxy. The first address that is not is the
//! client's, because a trusted proxy saw it. An unreadable entry (obfuscated, malformed, `unknown`) ends the
//! walk at the proxy that wrote it, and all such clients share that proxy's limits. Nothing here panics or
//! fails: every request has an address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Hops that are read, from the right.
pub(crate) const HOPS_MAX: usize = 16;

/// Bits of an IPv4 address that identify one client: all of them.
const IPV4_BITS: u8 = 32;

/// Header that the trusted proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`
    #[default]
    #[value(name = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239)
    #[value(name = "forwarded")]
    Forwarded,
}

/// Trusted proxies, and the header that they write.
///
/// Only that header is read. A proxy that writes the one forwards the other as the client sent it.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Networks of the proxies.
    pub trusted: Vec<IpNet>,
    /// Header that they write.
    pub header: ForwardedHeader,
}

/// Identity of a client for limits: an IPv4 address, or an IPv6 prefix, because every client has 2^64 IPv6
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressKey(IpAddr);

impl AddressKey {
    pub(super) fn new(address: IpAddr, ipv6_prefix_bits: u8) -> Self {
        match address {
            IpAddr::V4(_) => Self(address),
            IpAddr::V6(v6) => {
                let unused = u32::from(128 - ipv6_prefix_bits.min(128));
                let mask = u128::MAX.checked_shl(unused).unwrap_or(0);
                Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)))
            }
        }
    }
}

impl Proxies {
    /// Whether this address is one of a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Address of the client. An IPv4-mapped IPv6 address is returned as IPv4.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let mut hops = Vec::new();
        for line in headers.get_all(self.header.name()) {
            // A line that is not text may hide any entry, so nothing to the left of it is trusted either.
            match line.to_str() {
                Ok(line) if self.header == ForwardedHeader::XForwardedFor => x_forwarded_for(line, &mut hops),
                Ok(line) => forwarded(line, &mut hops),
                Err(_) => hops.push(None),
            }
        }
        for hop in hops.into_iter().rev().take(HOPS_MAX) {
            let Some(address) = hop else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }
}

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => axum::http::header::FORWARDED,
        }
    }
}

/// Parses a network in CIDR notation, or a single address.
///
/// # Errors
/// When the text is neither.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().ok().or_else(|| {
        let address = text.parse::<IpAddr>().ok()?;
        let bits = if address.is_ipv4() { IPV4_BITS } else { 128 };
        IpNet::new(address, bits).ok()
    });
    parsed.ok_or_else(|| "expected an address or a network, such as 10.0.0.0/8 or 2001:db8::1".to_owned())
}

/// Adds the hops of one `X-Forwarded-For` line. None stands for an unreadable hop.
fn x_forwarded_for(line: &str, hops: &mut Vec<Option<IpAddr>>) {
    hops.extend(line.split(',').map(|entry| address(entry.trim())));
}

/// Adds the hops of one `Forwarded` line.
///
/// A line that breaks the grammar is one unreadable hop: it is unknown which quotes end which element.
fn forwarded(line: &str, hops: &mut Vec<Option<IpAddr>>) {
    let Some(elements) = split_outside_quotes(line, ',') else { return hops.push(None) };
    for element in elements {
        let Some(pairs) = split_outside_quotes(element, ';') else { return hops.push(None) };
        let mut of_element = pairs.into_iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
        });
        // `for` must not occur twice in an element, because it would be unclear which one is valid.
        let (first, second) = (of_element.next(), of_element.next());
        let value = first.filter(|_| second.is_none()).and_then(unquoted);
        hops.push(value.as_deref().and_then(address));
    }
}

/// Splits a text at a separator that is not within quotes. None if a quote is left open.
fn split_outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// Removes the quotes of a quoted string. An address needs no escapes, so a value with an escape is
/// unreadable.
fn unquoted(value: &str) -> Option<String> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.contains(['"', '\\'])).then(|| inner.to_owned())
}

/// Parses `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed = match bracketed {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip())),
    };
    parsed.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|n| parse_network(n).expect("a network")).to_vec();
        let proxies = Proxies { trusted, header };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line.as_bytes()).expect("a header"));
        }
        proxies.client(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn forwarded_headers_of_untrusted_peers_are_ignored() {
        for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
            let line = if header == ForwardedHeader::Forwarded { "for=192.0.2.1" } else { "192.0.2.1" };
            assert_eq!(client(header, "198.51.100.9", &[line]), "198.51.100.9");
            assert_eq!(client(header, "10.1.2.3", &[line]), "192.0.2.1");
            assert_eq!(client(header, "::ffff:10.1.2.3", &[line]), "192.0.2.1");
            assert_eq!(client(header, "::ffff:198.51.100.9", &[line]), "198.51.100.9");
            assert_eq!(client(header, "10.1.2.3", &[]), "10.1.2.3");
        }
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right_up_to_the_first_untrusted_hop() {
        let of = |lines: &[&str]| client(ForwardedHeader::XForwardedFor, "10.0.0.1", lines);
        for (lines, expected) in [
            (&["1.1.1.1, 192.0.2.7"][..], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7, 10.0.0.2,fd00::2"], "192.0.2.7"),
            // Several lines form one list.
            (&["1.1.1.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            // An unreadable entry ends the walk at the hop that wrote it.
            (&["192.0.2.7, unknown"], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.7,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.7", "\u{e9}"], "10.0.0.1"),
            (&["192.0.2.300"], "10.0.0.1"),
            (&["1.1.1.1 192.0.2.7"], "10.0.0.1"),
            (&["for=192.0.2.7"], "10.0.0.1"),
            (&["[192.0.2.7]"], "10.0.0.1"),
            (&["fe80::1%eth0"], "10.0.0.1"),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
        // Hops beyond the limit are not read.
        let long = format!("192.0.2.7{}", ", 10.0.0.2".repeat(HOPS_MAX));
        assert_eq!(of(&[&long]), "10.0.0.2");
    }

    #[test]
    fn forwarded_is_parsed_as_rfc_7239_defines_it() {
        let of = |lines: &[&str]| client(ForwardedHeader::Forwarded, "10.0.0.1", lines);
        for (lines, expected) in [
            (&["for=192.0.2.7"][..], "192.0.2.7"),
            (&["For=192.0.2.7;proto=https;by=10.0.0.9"], "192.0.2.7"),
            (&["by=10.0.0.9; FOR=\"192.0.2.7:4711\""], "192.0.2.7"),
            (&["for=\"[2001:db8::7]:4711\""], "2001:db8::7"),
            (&["for=1.1.1.1, for=192.0.2.7;proto=http, for=10.0.0.2"], "192.0.2.7"),
            (&["for=1.1.1.1", "for=192.0.2.7"], "192.0.2.7"),
            // A comma within quotes does not separate elements.
            (&["for=1.1.1.1, for=192.0.2.7;host=\"a,for=9.9.9.9\""], "192.0.2.7"),
            (&["for=192.0.2.7;host=\"a\\\",for=9.9.9.9\""], "192.0.2.7"),
            (&["for=_x"], "10.0.0.1"),
            (&["for=1.1.1.1, for=_hidden"], "10.0.0.1"),
            (&["for=1.1.1.1, for=unknown, for=10.0.0.2"], "10.0.0.2"),
            (&["for=1.1.1.1, proto=http"], "10.0.0.1"),
            (&["for=1.1.1.1;for=2.2.2.2"], "10.0.0.1"),
            // A quote that a client leaves open would swallow the proxy's own element, so nothing is trusted.
            (&["for=1.1.1.1;host=\"x, for=192.0.2.7"], "10.0.0.1"),
            (&["for=\"1.1.1.1"], "10.0.0.1"),
            (&["for=1.1.1.1\""], "10.0.0.1"),
            (&["192.0.2.7"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_configured_header_is_read() {
        let proxies = Proxies {
            trusted: vec![parse_network("10.0.0.1").expect("an address")],
            header: ForwardedHeader::XForwardedFor,
        };
        let mut headers = HeaderMap::new();
        headers.append("forwarded", HeaderValue::from_static("for=9.9.9.9"));
        let peer = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(proxies.client(peer, &headers), peer);
    }

    #[test]
    fn ipv6_addresses_of_one_prefix_are_one_client() {
        let key = |text: &str, bits| AddressKey::new(text.parse().expect("an address"), bits);
        assert_eq!(key("2001:db8:1:2:3::4", 64), key("2001:db8:1:2:ffff::", 64));
        assert_ne!(key("2001:db8:1:2::", 64), key("2001:db8:1:3::", 64));
        assert_eq!(key("2001:db8:1:2::", 48), key("2001:db8:1:3::", 48));
        assert_ne!(key("2001:db8::1", 128), key("2001:db8::2", 128));
        assert_eq!(key("2001:db8::1", 0), key("::1", 0));
        assert_ne!(key("192.0.2.1", 64), key("192.0.2.2", 64));
    }
}
