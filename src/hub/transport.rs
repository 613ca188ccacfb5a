//! A socket's stream, in plain text or in TLS, shared by who reads it and its outbox.
//!
//! Plain text is written by whoever has something to send, here and now. TLS is encrypted, so it is written
//! by the session's own task alone, which reads it, too: its lock is never contended.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::sync::lock;

/// See the module's documentation.
#[derive(Debug)]
pub struct Transport(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Plain(TcpStream),
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

impl Transport {
    /// Bytes go as they are.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self(Kind::Plain(stream))
    }

    /// Bytes are encrypted.
    #[must_use]
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self(Kind::Tls(Box::new(Mutex::new(stream))))
    }

    /// Sets the kernel's send buffer, in bytes, and sends small writes at once.
    ///
    /// # Errors
    /// When the kernel refuses, which is no reason to refuse a session.
    pub fn configure(&self, send_buffer_bytes: usize) -> io::Result<()> {
        let set = |stream: &TcpStream| {
            let socket = socket2::SockRef::from(stream);
            socket.set_send_buffer_size(send_buffer_bytes)?;
            socket.set_tcp_nodelay(true)
        };
        match &self.0 {
            Kind::Plain(stream) => set(stream),
            Kind::Tls(stream) => set(lock(stream).get_ref().0),
        }
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => return Pin::new(&mut *lock(stream)).poll_read(cx, buf),
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Says that nothing more will be written: in TLS with a `close_notify`, then in TCP.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(stream) => {
                Poll::Ready(socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write))
            }
            Kind::Tls(stream) => Pin::new(&mut *lock(stream)).poll_shutdown(cx),
        }
    }

    /// Writes what the kernel takes. TLS takes up to its own buffer more (64 KiB); [`Self::poll_flush`]
    /// brings that out.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = match &self.0 {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => return Pin::new(&mut *lock(stream)).poll_write(cx, bytes),
        };
        loop {
            match stream.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_write_ready(cx))?,
                written => return Poll::Ready(written),
            }
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(_) => Poll::Ready(Ok(())),
            Kind::Tls(stream) => Pin::new(&mut *lock(stream)).poll_flush(cx),
        }
    }
}
