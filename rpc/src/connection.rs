//! Connections as they arrive: accepted, with TLS if the server has it, and with
//! what their caller has shown.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::transport::server::Connected;

use crate::{
    caller::certificate::{self, Shown},
    tls::Tls,
};

/// Connections that may be in their handshake at a time; more wait to be
/// accepted.
const HANDSHAKES_MAX: usize = 512;
/// How long one handshake may take, in seconds.
const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Connections that wait for the server to take them.
const ACCEPTED_MAX: usize = 64;
/// The pause after a connection that could not be accepted, in milliseconds: the
/// process may have no file descriptors left.
const ACCEPT_PAUSE_MS: u64 = 50;
/// What a connection with TLS begins with. HTTP/2 without it begins with `P`.
const TLS_HANDSHAKE: u8 = 0x16;

/// What is known of who is at the other end. Goes with each call.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A connection without TLS, to a server without TLS.
    Plain,
    /// A connection without TLS, to a server with it: every call is refused.
    PlainToTls,
    /// A connection with TLS, and the certificate that its caller showed. It is
    /// of one of the authorities.
    Tls(Option<Arc<Shown>>),
}

/// A connection.
pub(crate) struct Connection {
    io: Either<TcpStream, TlsStream<TcpStream>>,
    peer: Peer,
    /// Resolves when the caller's certificate is good no more.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Accepts until `stop`; the task has let go of the socket when it is done.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
) -> (
    impl Stream<Item = Result<Connection, Infallible>>,
    JoinHandle<()>,
) {
    let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let accepting = async move {
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            let (tls, accepted) = (tls.clone(), accepted.clone());
            tokio::spawn(async move {
                let limit = Duration::from_secs(HANDSHAKE_SECONDS_MAX);
                match tokio::time::timeout(limit, shake_hands(socket, tls)).await {
                    Ok(Ok(connection)) => {
                        drop(permit);
                        // An error: the server has stopped.
                        let _ = accepted.send(Ok(connection)).await;
                    }
                    Ok(Err(error)) => tracing::info!(%error, "a connection came to nothing"),
                    Err(_) => tracing::info!("a connection did not finish its handshake in time"),
                }
            });
        }
    };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = accepting => {}
            () = stop.cancelled() => {}
        }
    });
    // It does not end: its end would be a second way to say that the server stops.
    let connections = ReceiverStream::new(connections).chain(tokio_stream::pending());
    (connections, task)
}

async fn shake_hands(socket: TcpStream, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    socket.set_nodelay(true)?;
    let plain = |socket, peer| Connection {
        io: Either::Left(socket),
        peer,
        end: None,
    };
    let Some(tls) = tls else {
        return Ok(plain(socket, Peer::Plain));
    };
    let mut first = [0];
    if socket.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        return Ok(plain(socket, Peer::PlainToTls));
    }
    let current = tls.current();
    let stream = TlsAcceptor::from(current.config).accept(socket).await?;
    let chain = stream.get_ref().1.peer_certificates();
    let shown = chain.and_then(<[_]>::first).map(certificate::read);
    let shown = shown.transpose()?.map(Arc::new);
    let end = shown.as_ref().map(|shown| {
        let (clock, until) = (tls.clock().clone(), shown.until);
        let end: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            tokio::select! {
                () = clock.sleep_until(until) => {}
                () = current.retired.cancelled() => {}
            }
        });
        end
    });
    Ok(Connection {
        io: Either::Right(stream),
        peer: Peer::Tls(shown),
        end,
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            // It must not be polled again.
            self.end = Some(Box::pin(std::future::ready(())));
            let message = "the caller's certificate is good no more";
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                message,
            )));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
