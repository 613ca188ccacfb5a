//! Which socket belongs to which organisation, gateway, source address and process. Pure arithmetic.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};

use crate::message::Seat;

/// How sockets are spread over organisations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Skew {
    Uniform,
    /// The nth organisation has 1/n^s of what the first has.
    Zipf(f64),
    /// The first organisation has this share, the others the rest in equal parts.
    OneLarge(f64),
}

impl FromStr for Skew {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        const HELP: &str = "write uniform, zipf, zipf:1.2, one-large or one-large:0.8";
        let (name, value) = text.split_once(':').unzip();
        let value = value.map(|value: &str| value.parse::<f64>().ok().context(HELP)).transpose()?;
        match (name.unwrap_or(text), value) {
            ("uniform", None) => Ok(Self::Uniform),
            ("zipf", exponent) => {
                let exponent = exponent.unwrap_or(1.0);
                ensure!(
                    exponent > 0.0 && exponent.is_finite(),
                    "the exponent of zipf must be above 0: {HELP}"
                );
                Ok(Self::Zipf(exponent))
            }
            ("one-large", share) => {
                let share = share.unwrap_or(0.5);
                ensure!((0.0..=1.0).contains(&share), "the share of one-large is from 0 to 1: {HELP}");
                Ok(Self::OneLarge(share))
            }
            _ => bail!("unknown skew {text}: {HELP}"),
        }
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => write!(f, "uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::OneLarge(share) => write!(f, "one-large:{share}"),
        }
    }
}

impl Skew {
    /// How many sockets each organisation has.
    pub(crate) fn sizes(self, sockets: usize, orgs: usize) -> Vec<usize> {
        let weight = |n: usize| match self {
            Self::Uniform => 1.0,
            Self::Zipf(exponent) => (n as f64 + 1.0).powf(-exponent),
            Self::OneLarge(share) if n == 0 => share,
            Self::OneLarge(share) => (1.0 - share) / (orgs as f64 - 1.0).max(1.0),
        };
        let total: f64 = (0..orgs).map(weight).sum();
        // Cut at the rounded running sum: the parts add up, and none is off by more than one.
        let (mut sum, mut given) = (0.0, 0);
        let mut sizes: Vec<usize> = (0..orgs)
            .map(|n| {
                sum += weight(n);
                let until = whole(sum / total * sockets as f64).clamp(given, sockets);
                std::mem::replace(&mut given, until).abs_diff(until)
            })
            .collect();
        if let Some(last) = sizes.last_mut() {
            *last += sockets - given;
        }
        sizes
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of sockets, not negative"
)]
fn whole(number: f64) -> usize {
    number.round() as usize
}

/// A gateway's burst of handshakes for one address is 500 by default.
const SOCKETS_PER_ADDRESS: usize = 400;
/// An address has some 28,000 ports, and those of connections that ended are not free at once.
const SOCKETS_PER_ADDRESS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 250;

/// Source addresses where none are named: on this machine any of 127.0.0.0/8 will do.
pub(crate) fn addresses(gateways: &[SocketAddr], sockets: usize, named: &[IpAddr]) -> Vec<Option<IpAddr>> {
    let here = |gateway: &SocketAddr| matches!(gateway.ip(), IpAddr::V4(ip) if ip.is_loopback());
    if !named.is_empty() {
        return named.iter().copied().map(Some).collect();
    }
    if sockets <= SOCKETS_PER_ADDRESS || !gateways.iter().all(here) {
        return vec![None];
    }
    let count = sockets.div_ceil(SOCKETS_PER_ADDRESS).min(ADDRESSES_MAX);
    debug_assert!(sockets.div_ceil(count) <= SOCKETS_PER_ADDRESS_MAX || sockets > 5_000_000);
    let address = |n: usize| Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, u8::try_from(n + 2).ok()?)));
    (0..count).map(address).collect()
}

/// A seat for each socket, those of one organisation spread over gateways, addresses and, as processes
/// take them in turn, over processes.
pub(crate) fn seats(sizes: &[usize], gateways: usize, from: &[Option<IpAddr>]) -> Vec<Seat> {
    let mut left = sizes.to_vec();
    let mut seats: Vec<Seat> = Vec::with_capacity(sizes.iter().sum());
    // In rounds over the organisations, so that the first sockets to open are not all of one.
    while left.iter().any(|size| *size > 0) {
        for (org, size) in left.iter_mut().enumerate().filter(|(_, size)| **size > 0) {
            let n = seats.len();
            // Addresses change only after all gateways had their turn: each meets each.
            let from = from[(n / gateways) % from.len()];
            seats.push(Seat { org, gateway: n % gateways, from });
            *size -= 1;
        }
    }
    seats
}

/// Seats of each process.
pub(crate) fn shares(seats: &[Seat], processes: usize) -> Vec<Vec<Seat>> {
    let share = |process| seats.iter().skip(process).step_by(processes).copied().collect();
    (0..processes).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_seat_whatever_the_skew() {
        for (skew, sockets, orgs, first) in [
            ("uniform", 100, 7, 14),
            ("zipf", 1000, 10, 341),
            ("zipf:2", 1000, 10, 645),
            ("one-large", 100, 6, 50),
            ("one-large:0.8", 100, 6, 80),
            ("one-large:0.3", 10, 1, 10),
            ("uniform", 3, 5, 1),
        ] {
            let sizes = skew.parse::<Skew>().unwrap().sizes(sockets, orgs);
            assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (orgs, sockets), "{skew}");
            assert_eq!(sizes[0], first, "{skew}: {sizes:?}");
            assert_eq!(seats(&sizes, 3, &[None]).len(), sockets);
        }
    }

    #[test]
    fn a_bad_skew_teaches() {
        for text in ["", "even", "zipf:x", "zipf:0", "one-large:2", "uniform:1"] {
            let error = text.parse::<Skew>().unwrap_err();
            assert!(format!("{error:#}").contains("zipf:1.2"), "{text}: {error:#}");
        }
    }

    #[test]
    fn addresses_are_spread_where_they_are_this_machines() {
        let local: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let remote: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        assert_eq!(addresses(&[local], 400, &[]), [None]);
        assert_eq!(addresses(&[local], 5000, &[]).len(), 13);
        assert_eq!(addresses(&[local], 80_000, &[]).len(), 200);
        assert_eq!(addresses(&[local, remote], 80_000, &[]), [None]);
        let named = ["127.0.0.9".parse().unwrap()];
        assert_eq!(addresses(&[remote], 1, &named), [Some(named[0])]);
    }

    #[test]
    fn gateways_addresses_and_processes_share_evenly() {
        let from: Vec<_> = addresses(&["127.0.0.1:1".parse().unwrap()], 4000, &[]);
        let seats = seats(&[4000], 5, &from);
        for gateway in 0..5 {
            let of_gateway: Vec<_> = seats.iter().filter(|seat| seat.gateway == gateway).collect();
            assert_eq!(of_gateway.len(), 800);
            for address in &from {
                assert_eq!(of_gateway.iter().filter(|seat| seat.from == *address).count(), 80);
            }
        }
        let shares = shares(&seats, 3);
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [1334, 1333, 1333]);
    }
}
