//! A gRPC client that is HTTP/2 and no more: on cores that it shares with the
//! server, most of what tonic's client takes would be measured with it. The same
//! for whatever is measured.

use anyhow::{Context, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

/// A byte for the compression, four for the length.
const PREFIX_BYTES: usize = 5;

/// As hyper's client has it. Of a smaller window h2 derives that a hundred short
/// answers that wait to be read are an attack, and closes the connection.
const CONNECTION_WINDOW_BYTES: u32 = 5 << 20;
/// As hyper's client has it: what one answer may be ahead of its reader.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// A call, encoded once.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The method, without its service.
    pub(crate) name: &'static str,
    path: &'static str,
    body: Bytes,
}

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    address: String,
    requests: SendRequest<Bytes>,
}

impl Call {
    /// `path`: `/package.Service/Method`.
    pub(crate) fn new(path: &'static str, message: &impl Message) -> Self {
        let encoded = message.encode_to_vec();
        let mut body = Vec::with_capacity(PREFIX_BYTES + encoded.len());
        body.push(0);
        body.extend((encoded.len() as u32).to_be_bytes());
        body.extend(encoded);
        Self {
            name: path.rsplit('/').next().unwrap_or(path),
            path,
            body: body.into(),
        }
    }
}

impl Wire {
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_window_size(STREAM_WINDOW_BYTES);
        let (requests, connection) = builder.handshake(socket).await?;
        // Its end is seen by the calls.
        tokio::spawn(connection);
        Ok(Self {
            address: address.to_owned(),
            requests,
        })
    }

    /// Calls, and reads the answer to its end: it has to be one.
    pub(crate) async fn call(&self, call: &Call) -> anyhow::Result<()> {
        let mut bytes = 0;
        let reading = self.read(call, |part| {
            bytes += part.len();
            Ok(())
        });
        reading.await?;
        ensure!(bytes >= PREFIX_BYTES, "{}: no answer", call.path);
        Ok(())
    }

    /// Calls: the one message that is the answer.
    pub(crate) async fn answer<M: Message + Default>(&self, call: &Call) -> anyhow::Result<M> {
        let mut answer = None;
        let reading = self.messages(call, |message| {
            ensure!(answer.is_none(), "{}: two answers", call.path);
            answer = Some(M::decode(message)?);
            Ok(())
        });
        reading.await?;
        answer.with_context(|| format!("{}: no answer", call.path))
    }

    /// Calls, and hands on each message of the answer as soon as it is whole.
    pub(crate) async fn messages(
        &self,
        call: &Call,
        mut each: impl FnMut(Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut read = BytesMut::new();
        let reading = self.read(call, |part| {
            read.extend_from_slice(&part);
            while let Some(message) = first_message(&mut read) {
                each(message)?;
            }
            Ok(())
        });
        reading.await?;
        ensure!(read.is_empty(), "{}: half a message", call.path);
        Ok(())
    }

    /// Calls, and hands on what there is of the answer as it comes, to its end.
    async fn read(
        &self,
        call: &Call,
        mut part: impl FnMut(Bytes) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = Request::post(format!("http://{}{}", self.address, call.path))
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut sending) = requests.send_request(request, false)?;
        sending.send_data(call.body.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        while let Some(data) = body.data().await {
            let data = data?;
            let bytes = data.len();
            part(data)?;
            body.flow_control().release_capacity(bytes)?;
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        ensure!(status(&trailers)? == "0", "{}: {trailers:?}", call.path);
        Ok(())
    }
}

/// Takes the first message out of what was read, without its prefix, if it is whole.
fn first_message(read: &mut BytesMut) -> Option<Bytes> {
    let [_, length @ ..]: [u8; PREFIX_BYTES] = *read.first_chunk()?;
    let end = PREFIX_BYTES + usize::try_from(u32::from_be_bytes(length)).ok()?;
    if read.len() < end {
        return None;
    }
    let mut message = read.split_to(end);
    message.advance(PREFIX_BYTES);
    Some(message.freeze())
}

fn status(trailers: &HeaderMap) -> anyhow::Result<&str> {
    let status = trailers.get("grpc-status").context("a grpc-status")?;
    Ok(status.to_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_whatever_parts_they_come_in() {
        let sent: Vec<u8> = [&[0, 0, 0, 0, 2, 7, 8][..], &[0; 5], &[0, 0, 0, 0, 1, 9]].concat();
        for size in 1..=sent.len() {
            let (mut read, mut messages) = (BytesMut::new(), Vec::new());
            for part in sent.chunks(size) {
                read.extend_from_slice(part);
                messages.extend(std::iter::from_fn(|| first_message(&mut read)));
            }
            assert_eq!(messages, [&[7, 8][..], &[], &[9]], "in parts of {size}");
            assert!(read.is_empty());
        }
    }
}
