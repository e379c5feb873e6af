//! A real HTTP server that does as it is told, once per connection.

use std::net::SocketAddr;

use neon_api::{NeonClient, ProjectId, Secret};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const KEY: &str = "napi_0123456789abcdef";

/// What the server does with one request.
pub(crate) enum Reply {
    /// Writes these bytes and closes.
    Bytes(Vec<u8>),
    /// Closes without a byte.
    Close,
    /// Says nothing until the client goes.
    Silence,
}

impl Reply {
    /// An answer with this status line's number and this JSON.
    pub(crate) fn json(status: u16, body: &Value) -> Reply {
        Reply::text(status, &[], &body.to_string())
    }

    /// An answer with this status, these headers and this body.
    pub(crate) fn text(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut answer = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
        for (name, value) in headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        if status != 204 {
            answer.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        answer.push_str("\r\n");
        answer.push_str(body);
        Reply::Bytes(answer.into_bytes())
    }
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Received {
    /// `GET /api/v2/projects?limit=1`.
    pub(crate) line: String,
    /// The headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    requests: JoinHandle<Vec<Received>>,
}

impl Server {
    /// Takes as many connections as there are replies, one after another.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replies: Vec<Reply> = replies.into_iter().collect();
        let requests = tokio::spawn(async move {
            let mut requests = Vec::new();
            for reply in replies {
                let (mut socket, _) = listener.accept().await.unwrap();
                requests.push(read_request(&mut socket).await);
                answer(&mut socket, reply).await;
            }
            requests
        });
        Server { address, requests }
    }

    pub(crate) fn client(&self) -> NeonClient {
        let url = format!("http://{}/api/v2", self.address).parse().unwrap();
        NeonClient::new(url, Secret::from(KEY)).unwrap()
    }

    /// Every request, when each reply was given.
    pub(crate) async fn requests(self) -> Vec<Received> {
        self.requests.await.unwrap()
    }

    /// The one request.
    pub(crate) async fn request(self) -> Received {
        let mut requests = self.requests().await;
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }
}

pub(crate) fn project() -> ProjectId {
    "late-frost-12345678".parse().unwrap()
}

async fn answer(socket: &mut TcpStream, reply: Reply) {
    match reply {
        Reply::Bytes(bytes) => {
            // A client that has read enough may be gone.
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
        }
        Reply::Close => {}
        Reply::Silence => {
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
        }
    }
}

async fn read_request(socket: &mut TcpStream) -> Received {
    let mut bytes = Vec::new();
    let head_length = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "cut head");
    };
    let head = String::from_utf8(bytes[..head_length].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1");
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let mut received = Received {
        line: line.to_owned(),
        headers,
        body: String::new(),
    };
    let body_length: usize = received
        .header("content-length")
        .map_or(0, |text| text.parse().unwrap());
    while bytes.len() < head_length + body_length {
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "cut body");
    }
    received.body = String::from_utf8(bytes[head_length..].to_vec()).unwrap();
    received
}
