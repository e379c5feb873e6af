//! Bytes from a client to its server and back.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// How much is read at once. It is on the stack of the gateway's thread: a
/// session keeps no buffer unless its other side is slow.
const CHUNK_BYTES: usize = 32 << 10;

/// Forwards until the server closes, or either side breaks. `first` is what was
/// read from the client already.
pub(super) async fn run(
    mut client: TcpStream,
    mut server: TcpStream,
    first: &[u8],
) -> io::Result<()> {
    server.write_all(first).await?;
    let (mut up, mut down) = (Direction::default(), Direction::default());
    poll_fn(|context| {
        // A client that has sent all it has may still be reading.
        if let Poll::Ready(Err(error)) = up.poll(context, &mut client, &mut server) {
            return Poll::Ready(Err(error));
        }
        // Postgres closes when all is said: what the client sends then is lost.
        down.poll(context, &mut server, &mut client)
    })
    .await
}

/// One direction of a session.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and could not be written yet.
    rest: Vec<u8>,
    written: usize,
    /// The sender has sent its last byte.
    has_ended: bool,
    /// The receiver knows.
    is_closed: bool,
}

impl Direction {
    /// Ready when the sender's last byte is written, and the receiver knows that
    /// it was the last.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [MaybeUninit::<u8>::uninit(); CHUNK_BYTES];
        // Ends at the latest when tokio's budget for this task is spent.
        loop {
            while self.written < self.rest.len() {
                let left = &self.rest[self.written..];
                match ready!(Pin::new(&mut *to).poll_write(context, left))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
            }
            if !self.rest.is_empty() {
                // Its memory goes too: a session that is quiet costs little.
                self.rest = Vec::new();
                self.written = 0;
            }
            if self.is_closed {
                return Poll::Ready(Ok(()));
            }
            if self.has_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.is_closed = true;
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut *from).poll_read(context, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.has_ended = true;
                continue;
            }
            let written = match Pin::new(&mut *to).poll_write(context, bytes) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            if written < bytes.len() {
                self.rest = bytes[written..].to_vec();
            }
        }
    }
}
