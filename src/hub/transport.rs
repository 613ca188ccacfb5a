//! A socket's stream, in plain text or in TLS, shared by who reads it and its outbox.
//!
//! Plain text is written by whoever has something to send, here and now. TLS is encrypted, so it is written
//! by the session's own task alone, which reads it, too: its lock is never contended.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
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
            let socket = SockRef::from(stream);
            socket.set_send_buffer_size(send_buffer_bytes)?;
            socket.set_tcp_nodelay(true)
        };
        match &self.0 {
            Kind::Plain(stream) => set(stream),
            Kind::Tls(stream) => set(lock(stream).get_ref().0),
        }
    }

    /// Reads what is there. Ready with the number of bytes; 0: the peer sends no more.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Plain(stream) => poll_read(stream, cx, bytes),
            Kind::Tls(stream) => {
                let mut read = ReadBuf::new(bytes);
                ready!(Pin::new(&mut *lock(stream)).poll_read(cx, &mut read))?;
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }

    /// Says that nothing more will be written: in TLS with a `close_notify`, then in TCP.
    ///
    /// # Errors
    /// When the socket failed.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(stream) => Poll::Ready(SockRef::from(stream).shutdown(std::net::Shutdown::Write)),
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

/// In plain text. `TcpStream` reads by itself only for who owns it; this is what it does: bytes that do not fill the
/// buffer were the last ones, so the socket is not asked once more only to say that there is nothing.
fn poll_read(stream: &TcpStream, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let mut last = None;
        let read = stream.try_io(Interest::READABLE, || {
            let count = (&*SockRef::from(stream)).read(bytes)?;
            if (1..bytes.len()).contains(&count) {
                last = Some(count);
                // So that the runtime waits for the next arrival; one since the look above counts as that.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match (read, last) {
            (_, Some(count)) => return Poll::Ready(Ok(count)),
            (Err(e), None) if e.kind() == io::ErrorKind::WouldBlock => {}
            (read, None) => return Poll::Ready(read),
        }
    }
}
