//! The socket of a session, and what can be told of it from outside.
//!
//! tokio-postgres owns the sockets it opens and tells nothing of them. Three things are
//! asked of this one beside reading and writing: whether anything was sent since, which
//! proves that a statement cannot have been run; whether the server was asked something
//! that it has not begun to answer; and whether it has said anything to a session at
//! rest, which is how one that has died is found before it is used, without a query: as
//! pgx and go-sql-driver do.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// One end of a connection, for tokio-postgres to read and write.
#[derive(Debug)]
pub(crate) struct Socket {
    /// tokio's own half: it knows that nothing is left after less than was asked for,
    /// and does not ask the kernel once more.
    reading: Reading,
    tap: Arc<Tap>,
}

#[derive(Debug)]
enum Reading {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// The same, for those who look at it.
#[derive(Debug)]
pub(crate) struct Tap {
    stream: Stream,
    /// Bytes handed to the kernel.
    written: AtomicU64,
    /// Whether nothing was read since something was written.
    is_asked: AtomicBool,
}

#[derive(Debug)]
enum Stream {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// The same call on either stream.
macro_rules! on {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream {
            Stream::Tcp(half) => {
                let $name: &TcpStream = half.as_ref();
                $call
            }
            Stream::Unix(half) => {
                let $name: &UnixStream = half.as_ref();
                $call
            }
        }
    };
}

impl Socket {
    /// Of a TCP connection.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let (reading, writing) = stream.into_split();
        Self::new(Reading::Tcp(reading), Stream::Tcp(writing))
    }

    /// Of a Unix socket.
    pub(crate) fn unix(stream: UnixStream) -> Self {
        let (reading, writing) = stream.into_split();
        Self::new(Reading::Unix(reading), Stream::Unix(writing))
    }

    /// For those who look at it.
    pub(crate) fn tap(&self) -> Arc<Tap> {
        Arc::clone(&self.tap)
    }

    fn new(reading: Reading, stream: Stream) -> Self {
        let tap = Tap {
            stream,
            written: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
        };
        Self {
            reading,
            tap: Arc::new(tap),
        }
    }

    /// Says the last word; what the peer says still can be read.
    fn shut(&self) -> io::Result<()> {
        on!(&self.tap.stream, stream => SockRef::from(stream).shutdown(Shutdown::Write))
    }
}

/// Who looks at it keeps the peer no longer than it is used. What the peer says, and
/// when it hangs up, can be read still.
impl Drop for Socket {
    fn drop(&mut self) {
        // An error: the peer was first.
        let _ = self.shut();
    }
}

impl Tap {
    /// How many bytes were sent so far: none since, none in between.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Whether the peer was asked something that it has not begun to answer.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Acquire)
    }

    /// Whether the peer has neither hung up nor said anything that was not read yet.
    /// On a session at rest, either is its end: a FATAL, the end of TLS, of TCP.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = on!(&self.stream, stream => SockRef::from(stream).peek(&mut byte));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until the peer has hung up, and reads what it says until then away.
    pub(crate) async fn hung_up(&self) {
        let mut buffer = [0; 64];
        loop {
            let ready = on!(&self.stream, stream => stream.readable().await);
            let read =
                ready.and_then(|()| on!(&self.stream, stream => stream.try_read(&mut buffer)));
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn poll_written(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&Stream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(on!(&self.stream, stream => stream.poll_write_ready(context)))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) => {
                    self.written.fetch_add(count as u64, Ordering::Release);
                    self.is_asked.store(true, Ordering::Release);
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = match &mut this.reading {
            Reading::Tcp(half) => Pin::new(half).poll_read(context, buffer),
            Reading::Unix(half) => Pin::new(half).poll_read(context, buffer),
        };
        if read.is_ready() {
            this.tap.is_asked.store(false, Ordering::Release);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.tap.poll_written(
            context,
            |stream| on!(stream, stream => stream.try_write(buffer)),
        )
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tap.poll_written(
            context,
            |stream| on!(stream, stream => stream.try_write_vectored(buffers)),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> io::Result<(Socket, TcpStream)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        Ok((Socket::tcp(near), listener.accept().await?.0))
    }

    #[tokio::test]
    async fn what_is_sent_is_counted_and_what_comes_is_noticed() -> io::Result<()> {
        let (mut near, mut far) = pair().await?;
        let tap = near.tap();
        assert_eq!((tap.written(), tap.is_quiet()), (0, true));
        assert!(!tap.is_asked());
        near.write_all(b"question").await?;
        assert_eq!((tap.written(), tap.is_asked()), (8, true));
        let mut asked = [0; 8];
        far.read_exact(&mut asked).await?;

        far.write_all(b"answer").await?;
        let mut answer = [0; 6];
        near.tap.readable().await?;
        assert!(!tap.is_quiet(), "unread");
        near.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"answer");
        assert!(tap.is_quiet() && !tap.is_asked());

        drop(far);
        tap.hung_up().await;
        assert!(!tap.is_quiet(), "hung up");
        assert_eq!(tap.written(), 8);
        Ok(())
    }

    #[tokio::test]
    async fn the_peer_is_waited_for_after_the_last_word() -> io::Result<()> {
        let (mut near, mut far) = pair().await?;
        let tap = near.tap();
        near.write_all(b"farewell").await?;
        drop(near);
        let mut hung_up = Box::pin(tap.hung_up());
        let mut said = Vec::new();
        tokio::select! {
            () = &mut hung_up => panic!("it is there still"),
            read = far.read_to_end(&mut said) => read?,
        };
        assert_eq!(said, b"farewell");
        assert!(futures_util::poll!(&mut hung_up).is_pending());
        drop(far);
        hung_up.await;
        Ok(())
    }

    impl Tap {
        /// The kernel's socket, to read its options back.
        pub(crate) fn kernel(&self) -> SockRef<'_> {
            on!(&self.stream, stream => SockRef::from(stream))
        }

        async fn readable(&self) -> io::Result<()> {
            on!(&self.stream, stream => stream.readable().await)
        }
    }
}
