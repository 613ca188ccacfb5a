//! Flags of trusted proxies.

use clap::Args;
use ipnet::IpNet;

use crate::http::{ForwardedHeader, Proxies, parse_network};

#[derive(Args, Clone)]
#[command(next_help_heading = "Proxies")]
pub(super) struct ProxyArgs {
    /// Networks of proxies that are trusted to report the client's address, such as 10.0.0.0/8
    #[arg(long, env = "WARDEN_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network)]
    trusted_proxies: Vec<IpNet>,
    /// Header that the trusted proxies set; no other header is read
    #[arg(long, env = "WARDEN_FORWARDED_HEADER", value_name = "NAME", value_enum, default_value_t)]
    forwarded_header: ForwardedHeader,
}

impl ProxyArgs {
    pub(super) fn into_proxies(self) -> Proxies {
        Proxies { trusted: self.trusted_proxies, header: self.forwarded_header }
    }
}
