//! Non-blocking TCP connections from a chosen source address. Thousands of sockets need several source
//! addresses, because one address has some 28,000 ports.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

/// The reason why a connection could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This process has reached its limit of open files.
    #[error("cannot open a socket: {0}. Raise the limit of open files (`ulimit -n`)")]
    Socket(io::Error),
    /// The source address cannot be used.
    #[error("cannot connect from {from}: {error}. Is it an address of this machine?")]
    Bind {
        /// The source address.
        from: IpAddr,
        /// The kernel's error.
        error: io::Error,
    },
    /// All ports of the source address are in use.
    #[error("no free port is left for connections to {0}. Use more source addresses")]
    NoFreePort(SocketAddr),
    /// The server cannot be reached.
    #[error("cannot connect to {address}: {error}. Does a server listen there?")]
    Connect {
        /// The server's address.
        address: SocketAddr,
        /// The kernel's error.
        error: io::Error,
    },
}

/// Starts a connection and returns before it is established. The socket is non-blocking and sends without
/// delay.
pub fn connect(address: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream, ConnectError> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))
        .map_err(ConnectError::Socket)?;
    socket.set_tcp_nodelay(true).map_err(ConnectError::Socket)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into()).map_err(|error| ConnectError::Bind { from, error })?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Ok(socket.into())
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(ConnectError::NoFreePort(address))
        }
        Err(error) => Err(ConnectError::Connect { address, error }),
    }
}
