//! One server: its name in messages, and the options with which sqlx connects to it.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::negotiation::{Encryption, Target};
use crate::tls::{Security, SslMode};
use crate::tunnel::Tunnel;

/// Address of a server, with the login and the TLS settings.
#[derive(Clone)]
pub struct Address {
    name: String,
    direct: PgConnectOptions,
    tunnel: Option<Arc<Tunnel>>,
    /// Whether a TCP connection in plain text is still to be logged.
    is_unlogged: Arc<AtomicBool>,
}

/// Location of a server that is reached by TCP.
pub(crate) struct Host {
    pub(crate) name: String,
    /// Address to which the name need not be resolved.
    pub(crate) hostaddr: Option<String>,
    pub(crate) port: u16,
}

impl Address {
    /// A server behind a Unix socket in this directory. `@` begins a name in Linux's abstract namespace.
    pub(crate) fn at_socket(dir: &str, options: PgConnectOptions) -> Self {
        let path = dir.strip_prefix('@').map_or_else(|| dir.to_owned(), |name| format!("\0{name}"));
        Self {
            name: format!("{}/.s.PGSQL.{}", dir.trim_end_matches('/'), options.get_port()),
            direct: options.ssl_mode(PgSslMode::Disable).socket(path),
            tunnel: None,
            is_unlogged: Arc::default(),
        }
    }

    /// A server behind TCP. Unless TLS is disabled, sqlx connects to a tunnel.
    pub(crate) fn at_host(
        host: Host,
        options: PgConnectOptions,
        password: Option<String>,
        security: Security,
    ) -> anyhow::Result<Self> {
        let Host { name: host, hostaddr, port } = host;
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let connect_to = hostaddr.unwrap_or_else(|| host.clone());
        let direct = options.ssl_mode(PgSslMode::Disable).host(&connect_to);
        if matches!(security.mode, SslMode::Disable) {
            return Ok(Self { name, direct, tunnel: None, is_unlogged: Arc::new(AtomicBool::new(true)) });
        }
        let target = Target { name: name.clone(), connect_to, host, port, password, security };
        let tunnel = Tunnel::new(target).context("cannot create a local socket for TLS")?;
        Ok(Self { name, direct, tunnel: Some(Arc::new(tunnel)), is_unlogged: Arc::default() })
    }

    /// Name in messages: host and port, or the path of a socket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Options that lead to the server once [`Self::link`] was called. Before, a connection waits.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        through(self.tunnel.as_deref(), &self.direct)
    }

    /// Makes the address usable from the present runtime, for as long as the link or the address exists.
    /// Connections outlive both.
    ///
    /// # Errors
    /// If the system allows no further sockets.
    pub async fn link(&self) -> io::Result<Link> {
        if let Some(tunnel) = &self.tunnel {
            tunnel.start()?;
        } else if self.is_unlogged.swap(false, Ordering::Relaxed) {
            tracing::info!(
                address = self.name,
                encryption = %Encryption::Plain("sslmode=disable"),
                "database connection negotiated"
            );
        }
        let (direct, lasting) = (self.direct.clone(), self.options());
        let link = Link { direct, lasting, tunnel: self.tunnel.clone(), is_direct: false };
        Ok(link.renewed().await)
    }
}

/// Options that lead through the tunnel, if there is one.
fn through(tunnel: Option<&Tunnel>, options: &PgConnectOptions) -> PgConnectOptions {
    match tunnel {
        Some(tunnel) => options.clone().socket(tunnel.dir()).port(tunnel.port()),
        None => options.clone(),
    }
}

/// Shows the name alone, because the options contain the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Options that lead to a server for as long as this value exists.
#[derive(Clone)]
pub struct Link {
    /// Without a tunnel.
    direct: PgConnectOptions,
    /// Through the tunnel, if there is one.
    lasting: PgConnectOptions,
    tunnel: Option<Arc<Tunnel>>,
    /// Whether the tunnel would have nothing to encrypt.
    is_direct: bool,
}

impl Link {
    /// Changes the options of the link.
    #[must_use]
    pub fn with(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { direct: change(self.direct), lasting: change(self.lasting), ..self }
    }

    /// The link as it should be used now: without the tunnel if `sslmode` is `prefer` and the server offers
    /// no TLS. This asks the server.
    #[must_use]
    pub async fn renewed(&self) -> Self {
        let is_direct = match &self.tunnel {
            Some(tunnel) => tunnel.is_superfluous().await,
            None => false,
        };
        Self { is_direct, ..self.clone() }
    }

    /// Options that remain right if the server begins to offer TLS, for pools. They lead through the tunnel.
    #[must_use]
    pub fn lasting(&self) -> &PgConnectOptions {
        &self.lasting
    }
}

impl Deref for Link {
    type Target = PgConnectOptions;

    fn deref(&self) -> &PgConnectOptions {
        if self.is_direct { &self.direct } else { &self.lasting }
    }
}

/// Shows nothing of the options, which contain the password.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_tunnel = self.tunnel.is_some() && !self.is_direct;
        f.debug_struct("Link").field("has_tunnel", &has_tunnel).finish_non_exhaustive()
    }
}
