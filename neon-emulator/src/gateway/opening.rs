//! The first bytes of a connection: what its client wants.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Codes that stand where a startup message has its protocol's version.
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_ENCRYPTION_REQUEST: u32 = 80_877_104;
/// The length and the code.
const HEAD_BYTES: usize = 8;
/// As Postgres has it.
const STARTUP_BYTES_MAX: u32 = 10_000;
const PROTOCOL_MAJOR: u32 = 3;

/// What a client wants, and the bytes of it that were read: the server gets
/// them first.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) wish: Wish,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// An encrypted session: the request for TLS was read.
    Tls,
    /// An encrypted session, begun with the handshake: nothing was read of it.
    DirectTls,
    /// A session without TLS.
    Plain,
    /// The end of somebody's query, or nothing that Postgres knows: it concerns
    /// a server that runs, and starts none.
    NoSession,
}

/// Reads the first bytes. Encryption by GSSAPI is declined, as by a Postgres
/// that is not set up for it; the client then asks for something else.
pub(super) async fn read(client: &mut TcpStream) -> io::Result<Opening> {
    let opening = read_once(client).await?;
    match opening {
        Some(opening) => Ok(opening),
        None => {
            client.write_all(b"N").await?;
            read_once(client).await?.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "GSSAPI is asked for twice")
            })
        }
    }
}

/// `None`: GSSAPI is asked for.
async fn read_once(client: &mut TcpStream) -> io::Result<Option<Opening>> {
    let mut first = [0];
    if client.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == TLS_HANDSHAKE {
        return Ok(Some(Opening {
            wish: Wish::DirectTls,
            bytes: Vec::new(),
        }));
    }
    let mut head = [0; HEAD_BYTES];
    client.read_exact(&mut head).await?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let code = u32::from_be_bytes([c0, c1, c2, c3]);
    let wish = match code {
        GSS_ENCRYPTION_REQUEST => return Ok(None),
        SSL_REQUEST => Wish::Tls,
        CANCEL_REQUEST => Wish::NoSession,
        version
            if version >> 16 == PROTOCOL_MAJOR
                && (HEAD_BYTES as u32..=STARTUP_BYTES_MAX).contains(&length) =>
        {
            Wish::Plain
        }
        _ => Wish::NoSession,
    };
    let mut bytes = head.to_vec();
    // Whole: a pooler takes half a message for a broken client.
    if wish == Wish::Plain || code == CANCEL_REQUEST {
        let rest = length.saturating_sub(HEAD_BYTES as u32);
        let mut rest = client.take(u64::from(rest.min(STARTUP_BYTES_MAX)));
        rest.read_to_end(&mut bytes).await?;
    }
    Ok(Some(Opening { wish, bytes }))
}
