//! What a client is told who cannot be served.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::opening::{Opening, Wish};
use crate::limits::TOO_MANY_ACTIVE;

/// As Postgres has it.
const STARTUP_BYTES_MAX: u32 = 10_000;
/// How much a client may still be sending when it is turned away.
const REST_BYTES_MAX: u64 = 64 << 10;

/// Why there is no server for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such endpoint, or no longer.
    NotFound,
    /// It is disabled.
    Disabled,
    /// Too many others are active.
    TooManyActive,
    /// It could not be started; with the reason.
    NotStarted(String),
    /// The emulator stops.
    Stopping,
}

impl Refusal {
    /// Neon's words.
    fn message(&self) -> &'static str {
        match self {
            Self::NotFound => "Control plane request failed: endpoint cannot be found",
            Self::Disabled => "Control plane request failed: endpoint is disabled",
            Self::TooManyActive => TOO_MANY_ACTIVE,
            Self::NotStarted(_) => "Couldn't connect to compute node",
            Self::Stopping => "Control plane request failed",
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            Self::NotStarted(reason) => Some(reason),
            Self::NotFound | Self::Disabled | Self::TooManyActive | Self::Stopping => None,
        }
    }

    /// The ErrorResponse that says it. Postgres's protocol: a type, the length
    /// of the rest, and fields that a zero ends.
    fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut push = |kind: u8, text: &str| {
            fields.push(kind);
            fields.extend(text.bytes().filter(|byte| *byte != 0));
            fields.push(0);
        };
        push(b'S', "FATAL");
        push(b'V', "FATAL");
        // Neon's proxy has no code of its own for these.
        push(b'C', "XX000");
        push(b'M', self.message());
        if let Some(detail) = self.detail() {
            push(b'D', detail);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        let mut bytes = vec![b'E'];
        bytes.extend(length.to_be_bytes());
        bytes.extend(fields);
        bytes
    }
}

/// Tells the client, in the encryption that it asked for: a client that wants
/// TLS reads nothing without.
pub(super) async fn tell(
    mut client: TcpStream,
    opening: &Opening,
    tls: &Arc<ServerConfig>,
    refusal: &Refusal,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    match opening.wish {
        Wish::NoSession => Ok(()),
        Wish::Plain => {
            let head = opening.bytes.first_chunk().copied().unwrap_or_default();
            let read = u32::try_from(opening.bytes.len()).unwrap_or(u32::MAX);
            skip(&mut client, u32::from_be_bytes(head).saturating_sub(read)).await?;
            say(client, refusal).await
        }
        Wish::Tls => {
            client.write_all(b"S").await?;
            let mut client = acceptor.accept(client).await?;
            skip_startup(&mut client).await?;
            say(client, refusal).await
        }
        Wish::DirectTls => {
            let mut client = acceptor.accept(client).await?;
            skip_startup(&mut client).await?;
            say(client, refusal).await
        }
    }
}

/// The startup message. A client that reads before it has sent everything is
/// not told of, and closing with unread bytes would take the answer from it.
async fn skip_startup(client: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let length = client.read_u32().await?;
    skip(client, length.saturating_sub(4)).await
}

async fn skip(client: &mut (impl AsyncRead + Unpin), bytes: u32) -> io::Result<()> {
    let bytes = u64::from(bytes.min(STARTUP_BYTES_MAX));
    tokio::io::copy(&mut client.take(bytes), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn say(mut client: impl AsyncRead + AsyncWrite + Unpin, refusal: &Refusal) -> io::Result<()> {
    client.write_all(&refusal.to_bytes()).await?;
    client.shutdown().await?;
    // The client's own end: until then the answer is on its way.
    let mut rest = client.take(REST_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
