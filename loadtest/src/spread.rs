//! The spread of sockets over organisations, gateways, source addresses and worker processes. Pure
//! arithmetic.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};

use crate::filters::Filter;
use crate::message::SocketSpec;

/// How sockets are spread over organisations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Skew {
    Uniform,
    /// The nth organisation has 1/n^s of the sockets of the first.
    Zipf(f64),
    /// The first organisation has this share, and the others have equal parts of the rest.
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
                ensure!(
                    (0.0..=1.0).contains(&share),
                    "the share of one-large must be between 0 and 1: {HELP}"
                );
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
    /// The weight of the nth of some organisations, or filters.
    fn weight(self, n: usize, orgs: usize) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::Zipf(exponent) => (n as f64 + 1.0).powf(-exponent),
            Self::OneLarge(share) if n == 0 => share,
            Self::OneLarge(share) => (1.0 - share) / (orgs as f64 - 1.0).max(1.0),
        }
    }

    /// The sums of the weights up to each of `count` filters, from which one is chosen at random.
    pub(crate) fn cumulative_weights(self, count: usize) -> Vec<f64> {
        let mut sum = 0.0;
        let weight = |n| {
            sum += self.weight(n, count);
            sum
        };
        (0..count).map(weight).collect()
    }

    /// The number of sockets of each organisation.
    pub(crate) fn sizes(self, sockets: usize, orgs: usize) -> Vec<usize> {
        let weight = |n: usize| self.weight(n, orgs);
        let total: f64 = (0..orgs).map(weight).sum();
        // The running sum is rounded, so that the sizes add up and none is off by more than one.
        let (mut sum, mut assigned) = (0.0, 0);
        let mut sizes: Vec<usize> = (0..orgs)
            .map(|n| {
                sum += weight(n);
                let until = round_count(sum / total * sockets as f64).clamp(assigned, sockets);
                std::mem::replace(&mut assigned, until).abs_diff(until)
            })
            .collect();
        if let Some(last) = sizes.last_mut() {
            *last += sockets - assigned;
        }
        sizes
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of sockets, which is never negative"
)]
fn round_count(number: f64) -> usize {
    number.round() as usize
}

/// Sockets per source address. A gateway's default limit allows a burst of 500 handshakes per address.
const SOCKETS_PER_ADDRESS: usize = 400;
/// An address has some 28,000 ports, and the ports of ended connections are not free at once.
const SOCKETS_PER_ADDRESS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 250;

/// The source addresses: `named`, or else addresses of 127.0.0.0/8 if all gateways are on this machine.
/// `None` leaves the choice to the kernel.
pub(crate) fn source_addresses(
    gateways: &[SocketAddr],
    sockets: usize,
    named: &[IpAddr],
) -> Vec<Option<IpAddr>> {
    let is_local = |gateway: &SocketAddr| matches!(gateway.ip(), IpAddr::V4(ip) if ip.is_loopback());
    if !named.is_empty() {
        return named.iter().copied().map(Some).collect();
    }
    if sockets <= SOCKETS_PER_ADDRESS || !gateways.iter().all(is_local) {
        return vec![None];
    }
    let count = sockets.div_ceil(SOCKETS_PER_ADDRESS).min(ADDRESSES_MAX);
    debug_assert!(sockets.div_ceil(count) <= SOCKETS_PER_ADDRESS_MAX || sockets > 5_000_000);
    let address = |n: usize| Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, u8::try_from(n + 2).ok()?)));
    (0..count).map(address).collect()
}

/// One specification per socket. The sockets of each organisation are spread over gateways, source addresses
/// and (because workers take them in round-robin order) processes.
pub(crate) fn socket_specs(sizes: &[usize], gateways: usize, from: &[Option<IpAddr>]) -> Vec<SocketSpec> {
    let mut left = sizes.to_vec();
    let mut specs: Vec<SocketSpec> = Vec::with_capacity(sizes.iter().sum());
    // One socket of each organisation per round, so that the first sockets belong to different organisations.
    while left.iter().any(|size| *size > 0) {
        for (org, size) in left.iter_mut().enumerate().filter(|(_, size)| **size > 0) {
            let n = specs.len();
            // The address changes once per round of gateways, so that every pair of address and gateway
            // occurs.
            let from = from[(n / gateways) % from.len()];
            specs.push(SocketSpec { org, gateway: n % gateways, from, filter: None });
            *size -= 1;
        }
    }
    specs
}

/// Gives each socket one of `count` filters of its organisation.
pub(crate) fn assign_filters(specs: &mut [SocketSpec], sizes: &[usize], count: usize, skew: Skew) {
    let filters = |size: &usize| {
        let of_filter = skew.sizes(*size, count).into_iter().enumerate();
        of_filter.flat_map(|(filter, sockets)| std::iter::repeat_n(filter, sockets)).collect::<Vec<usize>>()
    };
    let mut left: Vec<Vec<usize>> = sizes.iter().map(filters).collect();
    for spec in specs {
        let filter = left[spec.org].pop().and_then(|filter| u32::try_from(filter).ok());
        spec.filter = filter.map(Filter);
    }
}

/// The sockets of each worker process.
pub(crate) fn shares(specs: &[SocketSpec], processes: usize) -> Vec<Vec<SocketSpec>> {
    let share = |process| specs.iter().skip(process).step_by(processes).copied().collect();
    (0..processes).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_skew_assigns_all_sockets() {
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
            assert_eq!(socket_specs(&sizes, 3, &[None]).len(), sockets);
        }
    }

    #[test]
    fn an_invalid_skew_is_rejected_with_an_example() {
        for text in ["", "even", "zipf:x", "zipf:0", "one-large:2", "uniform:1"] {
            let error = text.parse::<Skew>().unwrap_err();
            assert!(format!("{error:#}").contains("zipf:1.2"), "{text}: {error:#}");
        }
    }

    #[test]
    fn local_gateways_get_several_source_addresses() {
        let local: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let remote: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        assert_eq!(source_addresses(&[local], 400, &[]), [None]);
        assert_eq!(source_addresses(&[local], 5000, &[]).len(), 13);
        assert_eq!(source_addresses(&[local], 80_000, &[]).len(), 200);
        assert_eq!(source_addresses(&[local, remote], 80_000, &[]), [None]);
        let named = ["127.0.0.9".parse().unwrap()];
        assert_eq!(source_addresses(&[remote], 1, &named), [Some(named[0])]);
    }

    #[test]
    fn the_first_filters_have_most_sockets() {
        let sizes = [300, 100];
        let mut specs = socket_specs(&sizes, 1, &[None]);
        assign_filters(&mut specs, &sizes, 10, Skew::Zipf(1.0));
        let count = |org, filter| {
            specs.iter().filter(|spec| spec.org == org && spec.filter == Some(Filter(filter))).count()
        };
        assert_eq!((count(0, 0), count(0, 9), count(1, 0)), (102, 10, 34));
        assert!(specs.iter().all(|spec| spec.filter.is_some()));
        let weights = Skew::Zipf(1.0).cumulative_weights(3);
        assert!((weights[2] - 11.0 / 6.0).abs() < 1e-9, "{weights:?}");
    }

    #[test]
    fn gateways_addresses_and_processes_get_equal_shares() {
        let from: Vec<_> = source_addresses(&["127.0.0.1:1".parse().unwrap()], 4000, &[]);
        let specs = socket_specs(&[4000], 5, &from);
        for gateway in 0..5 {
            let of_gateway: Vec<_> = specs.iter().filter(|spec| spec.gateway == gateway).collect();
            assert_eq!(of_gateway.len(), 800);
            for address in &from {
                assert_eq!(of_gateway.iter().filter(|spec| spec.from == *address).count(), 80);
            }
        }
        let shares = shares(&specs, 3);
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [1334, 1333, 1333]);
    }
}
