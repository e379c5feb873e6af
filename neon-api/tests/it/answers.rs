//! Answers that are no success, or none that can be read.

use std::time::Duration;

use neon_api::types::{BranchCreateRequest, CreatedBranch};
use neon_api::{BranchId, Error};
use serde_json::json;

use crate::samples;
use crate::server::{KEY, Reply, Server, project};

/// The error of a mutation that is answered with `reply`.
async fn create_error(reply: Reply) -> Error {
    let server = Server::start([reply]).await;
    let request = BranchCreateRequest::named("feat1");
    let answer: Result<CreatedBranch, Error> =
        server.client().create_branch(&project(), &request).await;
    let error = answer.unwrap_err();
    server.request().await;
    error
}

/// The error of a read that is answered with `reply`.
async fn get_error(reply: Reply) -> Error {
    let server = Server::start([reply]).await;
    let branch: BranchId = "br-small-term-a1b2c3d4".parse().unwrap();
    let answer = server.client().get_branch(&project(), &branch).await;
    let error = answer.unwrap_err();
    server.request().await;
    error
}

fn verdict(error: &Error) -> (bool, bool) {
    (error.outcome_is_unknown(), error.may_repeat())
}

#[tokio::test]
async fn neons_error_is_told_with_its_route() {
    let error = create_error(Reply::json(
        409,
        &json!({
            "request_id": "63f5d1a5",
            "code": "BRANCH_ALREADY_EXISTS",
            "message": "branch already exists; branch_name:\"feat1\""
        }),
    ))
    .await;
    assert_eq!(
        error.to_string(),
        "POST /projects/late-frost-12345678/branches: 409 branch already exists; \
         branch_name:\"feat1\" (BRANCH_ALREADY_EXISTS, request id 63f5d1a5)"
    );
    assert_eq!(error.status(), Some(409));
    assert_eq!(error.code(), Some("BRANCH_ALREADY_EXISTS"));
    assert!(error.is_conflict() && !error.is_not_found());
    assert_eq!(verdict(&error), (false, false));
}

#[tokio::test]
async fn an_error_without_code_takes_its_request_id_from_the_header() {
    let error = get_error(Reply::text(
        404,
        &[("x-neon-ret-request-id", "from-header")],
        r#"{"code":"","message":"branch not found"}"#,
    ))
    .await;
    assert_eq!(
        error.to_string(),
        "GET /projects/late-frost-12345678/branches/br-small-term-a1b2c3d4: \
         404 branch not found (request id from-header)"
    );
    assert!(error.is_not_found());
    assert_eq!(error.code(), None);
}

#[tokio::test]
async fn what_may_be_repeated_and_what_is_unknown() {
    let body = json!({"code": "", "message": "words"});
    for (status, unknown, repeat) in [
        (400, false, false),
        (401, false, false),
        (404, false, false),
        (409, false, false),
        (422, false, false),
        (423, false, true),
        (429, false, true),
        (500, true, false),
        (502, true, false),
        (503, false, true),
    ] {
        let error = create_error(Reply::json(status, &body)).await;
        assert_eq!(verdict(&error), (unknown, repeat), "{status} of a mutation");
        let error = create_error(Reply::text(status, &[], "<html>")).await;
        assert_eq!(verdict(&error), (unknown, repeat), "{status} without JSON");
        let error = get_error(Reply::json(status, &body)).await;
        let expected = (false, repeat || status >= 500);
        assert_eq!(verdict(&error), expected, "{status} of a read");
    }
}

#[tokio::test]
async fn a_branch_that_is_not_ready_yet_may_be_asked_again() {
    let not_ready = json!({"code": "", "message": "branch not ready yet"});
    let error = create_error(Reply::json(422, &not_ready)).await;
    assert_eq!(verdict(&error), (false, true));
}

#[tokio::test]
async fn a_wrong_key_is_told() {
    let body = json!({"code": "", "message": "supplied credentials do not pass authentication"});
    assert!(get_error(Reply::json(401, &body)).await.is_unauthorized());
    assert!(get_error(Reply::json(403, &body)).await.is_unauthorized());
    assert!(!get_error(Reply::json(404, &body)).await.is_unauthorized());
}

#[tokio::test]
async fn a_gateways_page_is_survived() {
    let page = "<!DOCTYPE html>\n<!--[if lt IE 7]> <html> <![endif]-->\n<head>\n\
                <title>console.neon.tech | 524:\n A timeout occurred</title></head>";
    let error = create_error(Reply::text(524, &[("Content-Type", "text/html")], page)).await;
    assert!(matches!(error, Error::NotJson { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "POST /projects/late-frost-12345678/branches: 524 without Neon's error body: \
         console.neon.tech | 524: A timeout occurred"
    );
    assert_eq!(verdict(&error), (true, false));
}

#[tokio::test]
async fn a_long_or_binary_page_is_shortened() {
    let page = format!("\u{1b}[31m\0bad\r\n gateway {}", "x".repeat(100_000));
    let Error::NotJson { excerpt, .. } = create_error(Reply::text(502, &[], &page)).await else {
        panic!("not JSON");
    };
    assert!(excerpt.starts_with("[31m bad gateway xxx"), "{excerpt}");
    assert!(excerpt.chars().count() <= 201, "{excerpt}");
}

#[tokio::test]
async fn a_404_page_of_another_server_is_not_a_missing_branch() {
    let error = get_error(Reply::text(404, &[], "<title>Not Found</title>")).await;
    assert!(!error.is_not_found());
    assert_eq!(error.status(), Some(404));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([]).await;
    let target = elsewhere.client().base_url().to_string();
    let error = create_error(Reply::text(307, &[("Location", &target)], "")).await;
    assert_eq!(error.status(), Some(307));
    assert_eq!(verdict(&error), (false, false));
}

#[tokio::test]
async fn secrets_in_a_servers_words_are_taken_out() {
    let words = format!("bad key {KEY} for {}", samples::uri());
    let replies = [
        Reply::json(
            500,
            &json!({"code": KEY, "message": words, "request_id": KEY}),
        ),
        Reply::text(500, &[], &words),
        Reply::text(500, &[], &format!("<title>{words}</title>")),
    ];
    for reply in replies {
        let error = create_error(reply).await;
        for printed in [error.to_string(), format!("{error:?}")] {
            assert!(printed.contains("[redacted]"), "{printed}");
            assert!(!printed.contains(KEY), "{printed}");
            assert!(!printed.contains(samples::PASSWORD), "{printed}");
        }
    }
}

#[tokio::test]
async fn cut_json_of_a_success_is_an_unknown_outcome() {
    let whole = samples::created_branch().to_string();
    let error = create_error(Reply::text(201, &[], &whole[..whole.len() / 2])).await;
    assert!(
        matches!(error, Error::Decode { status: 201, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("EOF while parsing"), "{error}");
    assert_eq!(verdict(&error), (true, false));

    let error = get_error(Reply::text(200, &[], "{\"branch\":")).await;
    assert_eq!(verdict(&error), (false, true));
}

#[tokio::test]
async fn an_unreadable_success_names_the_field_and_no_value() {
    let missing = json!({"branch": samples::branch()});
    let error = create_error(Reply::json(201, &missing)).await;
    assert!(
        error.to_string().contains("missing field `endpoints`"),
        "{error}"
    );

    let mut wrong = samples::created_branch();
    wrong["connection_uris"] = json!(samples::uri());
    let mut wrong_number = samples::created_branch();
    wrong_number["connection_uris"] = json!(48_151_623);
    for wrong in [wrong, wrong_number] {
        let error = create_error(Reply::json(201, &wrong)).await;
        let printed = format!("{error} {error:?}");
        assert!(printed.contains("invalid type: "), "{printed}");
        assert!(!printed.contains(samples::PASSWORD), "{printed}");
        assert!(!printed.contains("48151623"), "{printed}");
    }
}

#[tokio::test]
async fn a_success_without_a_body_where_one_belongs_is_unreadable() {
    let error = create_error(Reply::text(204, &[], "")).await;
    assert!(
        matches!(error, Error::Decode { status: 204, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_success_without_end_is_not_read_to_its_end() {
    // One byte more than the 64 MiB that are taken.
    let body = " ".repeat(64 * 1024 * 1024 + 1);
    let error = create_error(Reply::text(201, &[], &body)).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert_eq!(verdict(&error), (true, false));
}

#[tokio::test]
async fn retry_after_is_seconds_or_a_date() {
    let date = ("Date", "Wed, 21 Oct 2026 07:28:00 GMT");
    let retry_after = async |headers: &[(&str, &str)]| {
        let json = r#"{"code":"","message":"slow down"}"#;
        let told = create_error(Reply::text(429, headers, json)).await;
        let page = create_error(Reply::text(429, headers, "<html>")).await;
        assert_eq!(told.retry_after(), page.retry_after());
        told.retry_after()
    };
    assert_eq!(retry_after(&[]).await, None);
    assert_eq!(
        retry_after(&[("Retry-After", "17")]).await,
        Some(Duration::from_secs(17))
    );
    let later = ("Retry-After", "Wed, 21 Oct 2026 07:28:30 GMT");
    assert_eq!(
        retry_after(&[date, later]).await,
        Some(Duration::from_secs(30))
    );
    let past = ("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_eq!(retry_after(&[date, past]).await, Some(Duration::ZERO));
    assert_eq!(retry_after(&[("Retry-After", "soon")]).await, None);
}
