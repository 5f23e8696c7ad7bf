//! Unix and TCP sockets behind one type, so that the raw stream can be taken back after an
//! upgrade, whichever it is.

use std::{
    io,
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Takes over the listening Unix socket that this process was started with.
    ///
    /// # Errors
    /// There is no such descriptor, or it is not a listening Unix socket.
    pub fn inherited(descriptor: RawFd) -> io::Result<Self> {
        let owned = take(descriptor)?;
        let listener = std::os::unix::net::UnixListener::from(owned);
        listener.local_addr()?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self::Unix)
    }

    /// Makes a Unix socket that only this user can connect to.
    ///
    /// # Errors
    /// The path is taken, or cannot be written.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        bound.map(Self::Unix)
    }

    /// Listens on a TCP address.
    ///
    /// # Errors
    /// The address is not this machine's, or taken.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// Where it listens, where that is an address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A key's echo must not wait for more to send.
                stream.set_nodelay(true)?;
                // A peer that lost its power says no goodbye; a watch would wait for ever.
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::KeepAlive, &true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Takes over a descriptor that this process was started with, and keeps it from children.
///
/// # Errors
/// It is not open.
#[allow(unsafe_code)]
pub fn take(descriptor: RawFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: the number is fixed by the contract with whoever starts us, and taken once, at the
    // start, before anything else could have opened a file; the next line refuses it if it is
    // not open.
    let owned = unsafe {
        if libc::fcntl(descriptor, libc::F_GETFD) < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

macro_rules! either {
    ($self:ident, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Stream::Unix($stream) => $do,
            Stream::Tcp($stream) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
