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
    options: PgConnectOptions,
    tunnel: Option<Arc<Tunnel>>,
    /// Whether a TCP connection in plain text is still to be logged.
    is_unlogged: Arc<AtomicBool>,
}

impl Address {
    /// A server behind a Unix socket in this directory. `@` begins a name in Linux's abstract namespace.
    pub(crate) fn at_socket(dir: &str, options: PgConnectOptions) -> Self {
        let path = dir.strip_prefix('@').map_or_else(|| dir.to_owned(), |name| format!("\0{name}"));
        Self {
            name: dir.to_owned(),
            options: options.ssl_mode(PgSslMode::Disable).socket(path),
            tunnel: None,
            is_unlogged: Arc::default(),
        }
    }

    /// A server behind TCP. Unless TLS is disabled, sqlx connects to a tunnel.
    pub(crate) fn at_host(
        host: String,
        hostaddr: Option<String>,
        port: u16,
        options: PgConnectOptions,
        security: Security,
    ) -> anyhow::Result<Self> {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let connect_to = hostaddr.unwrap_or_else(|| host.clone());
        let options = options.ssl_mode(PgSslMode::Disable).host(&connect_to);
        if matches!(security.mode, SslMode::Disable) {
            return Ok(Self { name, options, tunnel: None, is_unlogged: Arc::new(AtomicBool::new(true)) });
        }
        let target = Target { name: name.clone(), connect_to, host, port, security };
        let tunnel = Tunnel::new(target).context("cannot create a local socket for TLS")?;
        let options = options.socket(tunnel.dir()).port(tunnel.port());
        Ok(Self { name, options, tunnel: Some(Arc::new(tunnel)), is_unlogged: Arc::default() })
    }

    /// Name in messages: host and port, or the directory of a socket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Options that lead to the server once [`Self::link`] was called. Before, a connection waits.
    #[must_use]
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Makes the address usable from the present runtime, for as long as the link or the address exists.
    /// Connections outlive both.
    ///
    /// # Errors
    /// If the system allows no further sockets.
    pub fn link(&self) -> io::Result<Link> {
        if let Some(tunnel) = &self.tunnel {
            tunnel.start()?;
        } else if self.is_unlogged.swap(false, Ordering::Relaxed) {
            tracing::info!(
                address = self.name,
                encryption = %Encryption::Plain("sslmode=disable"),
                "database connection negotiated"
            );
        }
        Ok(Link { options: self.options.clone(), tunnel: self.tunnel.clone() })
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
    options: PgConnectOptions,
    tunnel: Option<Arc<Tunnel>>,
}

impl Link {
    /// Changes the options of the link.
    #[must_use]
    pub fn with(self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { options: change(self.options), tunnel: self.tunnel }
    }
}

impl Deref for Link {
    type Target = PgConnectOptions;

    fn deref(&self) -> &PgConnectOptions {
        &self.options
    }
}

/// Shows nothing of the options, which contain the password.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_tunnel", &self.tunnel.is_some()).finish_non_exhaustive()
    }
}
