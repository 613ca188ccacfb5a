//! A socket's stream, in plain text or over TLS, shared by its outbox and the task that reads it.
//!
//! Plain text is written by any thread that has something to send. Over TLS only the session's own task
//! writes, because it also encrypts. The same task reads, so the lock of a TLS stream is never contended.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::sync::lock;

/// The stream of an accepted connection.
#[derive(Debug)]
pub struct Transport(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Plain(TcpStream),
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

impl Transport {
    /// Wraps a stream in plain text.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self(Kind::Plain(stream))
    }

    /// Wraps an encrypted stream.
    #[must_use]
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self(Kind::Tls(Box::new(Mutex::new(stream))))
    }

    /// Sets the kernel's send buffer, in bytes, and disables Nagle's algorithm.
    ///
    /// # Errors
    /// If the kernel rejects an option. The session can run without it.
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

    /// Reads available bytes. Ready with their number; 0 means that the peer sends no more.
    ///
    /// # Errors
    /// If the socket failed.
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

    /// Shuts down the writing direction: over TLS with a `close_notify`, then in TCP.
    ///
    /// # Errors
    /// If the socket failed.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Plain(stream) => Poll::Ready(SockRef::from(stream).shutdown(std::net::Shutdown::Write)),
            Kind::Tls(stream) => Pin::new(&mut *lock(stream)).poll_shutdown(cx),
        }
    }

    /// Writes the bytes that the kernel accepts. TLS accepts up to 64 KiB more into its own buffer, which
    /// [`Self::poll_flush`] writes out.
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

/// Reads in plain text. `TcpStream` implements reading only for an owner with `&mut`; this does the same for
/// a shared stream. A read that does not fill the buffer has taken the last bytes, so no second system call
/// is needed to learn that the socket is empty.
fn poll_read(stream: &TcpStream, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let mut last = None;
        let read = stream.try_io(Interest::READABLE, || {
            let count = (&*SockRef::from(stream)).read(bytes)?;
            if (1..bytes.len()).contains(&count) {
                last = Some(count);
                // Makes the runtime clear the socket's readiness. Bytes that arrived after `poll_read_ready`
                // set it again.
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
