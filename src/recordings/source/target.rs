//! A URL of a source that was checked, and the addresses of its host.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use url::{Host, Url};

use super::address::AddressPolicy;
use crate::recordings::failure::Failure;

/// Longest URL, in bytes. Signed ones of object stores have about 2,000.
const URL_BYTES_MAX: usize = 8 * 1024;

/// The lowest port beside 80 and 443. The lower ones belong to services that do not speak HTTP.
const PORT_MIN: u16 = 1024;

/// Finds the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>>;
}

/// The resolver of the system.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
        })
    }
}

/// A URL that may be requested, if its addresses may be reached.
#[derive(Clone, Debug)]
pub(super) struct Target(Url);

impl Target {
    pub(super) fn parse(url: &str, allows_http: bool) -> Result<Self, Failure> {
        if url.len() > URL_BYTES_MAX {
            return Err(Failure::permanent("the address of the source is too long"));
        }
        let url = Url::parse(url)
            .map_err(|error| Failure::permanent(format!("not an address of a source: {error}")))?;
        Self::check(url, allows_http)
    }

    /// The target of a redirect.
    pub(super) fn join(&self, location: &str, allows_http: bool) -> Result<Self, Failure> {
        if location.len() > URL_BYTES_MAX {
            return Err(Failure::permanent("the source redirects to an address that is too long"));
        }
        let url = self.0.join(location).map_err(|error| {
            Failure::permanent(format!("{}: redirects to what is no address: {error}", self.host()))
        })?;
        Self::check(url, allows_http)
    }

    fn check(mut url: Url, allows_http: bool) -> Result<Self, Failure> {
        match url.scheme() {
            "https" => {}
            "http" if allows_http => {}
            "http" => return Err(Failure::permanent("the source is not https, and http is not allowed")),
            scheme => return Err(Failure::permanent(format!("a source cannot have the scheme {scheme}"))),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Failure::permanent("the address of a source must not contain a user or password"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(Failure::permanent("the address of a source must name a host"));
        }
        match url.port_or_known_default() {
            Some(80 | 443 | PORT_MIN..) => {}
            _ => {
                return Err(Failure::permanent(
                    "a source cannot have a port below 1024 other than 80 and 443",
                ));
            }
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(super) fn origin(&self) -> url::Origin {
        self.0.origin()
    }

    /// The host without brackets, for messages and the certificate.
    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// The value of the header Host.
    pub(super) fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }

    /// The addresses of the host, all of which may be reached.
    pub(super) async fn resolve(
        &self,
        resolver: &dyn Resolve,
        policy: &AddressPolicy,
        time_max: Duration,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let port = self.0.port_or_known_default().unwrap_or_default();
        let found = match self.0.host() {
            // The parser has read every form of an address: decimal, octal, hexadecimal, short.
            Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            Some(Host::Domain(name)) => match timeout(time_max, resolver.resolve(name)).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    return Err(Failure::temporary(format!("{name}: cannot be resolved: {error}")));
                }
                Err(_) => return Err(Failure::temporary(format!("{name}: cannot be resolved in time"))),
            },
            None => Vec::new(),
        };
        if found.is_empty() {
            return Err(Failure::temporary(format!("{}: has no address", self.host())));
        }
        // One that may not be reached rejects all: a name with both kinds tries to get past the check.
        if let Some(refused) = found.iter().find(|address| !policy.allows(**address)) {
            return Err(Failure::permanent(format!(
                "{}: {refused} is not a public address, and --allow-network does not contain it",
                self.host()
            )));
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }
}
