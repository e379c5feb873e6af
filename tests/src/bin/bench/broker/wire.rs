//! A gRPC client that is HTTP/2 and no more: on cores that it shares with the
//! broker, most of what tonic's client takes would be measured with it. The same
//! for whatever is measured.

use anyhow::{Context, ensure};
use bytes::Bytes;
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

/// A call, encoded once.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The method, without its service.
    pub(super) name: &'static str,
    path: &'static str,
    body: Bytes,
}

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    address: String,
    requests: SendRequest<Bytes>,
}

impl Call {
    /// `path`: `/package.Service/Method`.
    pub(super) fn new(path: &'static str, message: &impl Message) -> Self {
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
    pub(super) async fn connect(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (requests, connection) = builder.handshake(socket).await?;
        // Its end is seen by the calls.
        tokio::spawn(connection);
        Ok(Self {
            address: address.to_owned(),
            requests,
        })
    }

    /// Calls, and reads the answer to its end: it has to be one.
    pub(super) async fn call(&self, call: &Call) -> anyhow::Result<()> {
        let request = Request::post(format!("http://{}{}", self.address, call.path))
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut sending) = requests.send_request(request, false)?;
        sending.send_data(call.body.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            bytes += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        ensure!(
            bytes >= PREFIX_BYTES && status(&trailers)? == "0",
            "{}: {trailers:?}",
            call.path
        );
        Ok(())
    }
}

fn status(trailers: &HeaderMap) -> anyhow::Result<&str> {
    let status = trailers.get("grpc-status").context("a grpc-status")?;
    Ok(status.to_str()?)
}
