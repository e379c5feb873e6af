//! Requests that get no answer.

use std::error::Error as _;
use std::time::Duration;

use neon_api::types::{BranchCreateRequest, CreatedBranch};
use neon_api::{Error, NeonClient, Phase, Secret, Timeouts};
use tokio::net::TcpListener;

use crate::samples;
use crate::server::{KEY, Reply, Server, project};

async fn create(client: &NeonClient) -> Result<CreatedBranch, Error> {
    let request = BranchCreateRequest::named("feat1");
    client.create_branch(&project(), &request).await
}

fn assert_transport(error: &Error, phase: Phase, timed_out: bool) {
    let Error::Transport {
        phase: found_phase,
        timed_out: found_timed_out,
        ..
    } = error
    else {
        panic!("no transport error: {error:?}");
    };
    assert_eq!((*found_phase, *found_timed_out), (phase, timed_out));
}

#[tokio::test]
async fn a_closed_connection_is_an_unknown_outcome() {
    let server = Server::start([Reply::Close]).await;

    let error = create(&server.client()).await.unwrap_err();

    assert_transport(&error, Phase::Exchange, false);
    assert!(error.outcome_is_unknown() && !error.may_repeat() && !error.is_not_sent());
    assert_eq!(
        error.to_string(),
        "POST /projects/late-frost-12345678/branches: no complete answer came"
    );
    // The server saw it once: nothing sends a mutation again by itself.
    assert_eq!(server.requests().await.len(), 1);
}

#[tokio::test]
async fn a_read_that_got_no_answer_may_be_repeated() {
    let server = Server::start([Reply::Close]).await;
    let error = server.client().get_project(&project()).await.unwrap_err();
    assert_transport(&error, Phase::Exchange, false);
    assert!(!error.outcome_is_unknown() && error.may_repeat());
}

#[tokio::test]
async fn an_answer_cut_in_its_body_is_an_unknown_outcome() {
    let Reply::Bytes(mut bytes) = Reply::json(201, &samples::created_branch()) else {
        panic!("bytes");
    };
    bytes.truncate(bytes.len() - 100);
    let server = Server::start([Reply::Bytes(bytes)]).await;

    let error = create(&server.client()).await.unwrap_err();

    assert_transport(&error, Phase::Exchange, false);
    assert!(error.outcome_is_unknown());
}

#[tokio::test]
async fn an_error_cut_in_its_body_keeps_its_status() {
    let bytes = b"HTTP/1.1 423 Locked\r\nContent-Length: 100\r\n\r\n{\"co".to_vec();
    let server = Server::start([Reply::Bytes(bytes)]).await;
    let error = create(&server.client()).await.unwrap_err();
    assert_eq!(error.status(), Some(423));
    assert!(error.may_repeat() && !error.outcome_is_unknown());
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    // Bound and released: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{address}/api/v2").parse().unwrap();
    let client = NeonClient::new(url, Secret::from(KEY)).unwrap();

    let error = create(&client).await.unwrap_err();

    assert_transport(&error, Phase::Connect, false);
    assert!(error.is_not_sent() && error.may_repeat() && !error.outcome_is_unknown());
    assert_eq!(
        error.to_string(),
        "POST /projects/late-frost-12345678/branches: not sent, no connection"
    );
    let source = error.source().unwrap().to_string();
    assert!(!source.contains("http://"), "{source}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::start([Reply::Silence]).await;
    let timeouts = Timeouts {
        request: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let client = server.client().with_timeouts(timeouts).unwrap();

    let error = create(&client).await.unwrap_err();

    assert_transport(&error, Phase::Exchange, true);
    assert!(error.outcome_is_unknown() && !error.may_repeat());
    server.request().await;
}

#[tokio::test]
async fn no_error_of_the_network_prints_the_key() {
    let server = Server::start([Reply::Close]).await;
    let error = create(&server.client()).await.unwrap_err();
    let printed = format!("{error} {error:?}");
    assert!(!printed.contains(KEY), "{printed}");
}
