#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What comes over the wire until the connection is closed.
async fn over_the_wire(path: &str) -> String {
    let whole = Bytes::from(vec![b'x'; 50_000]);
    let short = Bytes::from_static(b"{\"a\":1}");
    let cut = |whole: Bytes| get(async move || truncated("".into_response(), &whole));
    let router = Router::new()
        .route("/lost", get(async || lost()))
        .route("/short", cut(short))
        .route("/long", cut(whole));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end may be a reset as well as an orderly one.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_lost_answer_is_no_byte() {
    assert_eq!(over_the_wire("/lost").await, "");
}

#[tokio::test]
async fn a_truncated_answer_says_more_than_it_sends() {
    for (path, length) in [("/short", 7), ("/long", 50_000)] {
        let answer = over_the_wire(path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {length}\r\n")),
            "{head}"
        );
        assert_eq!(body.len(), length / 2);
    }
}
