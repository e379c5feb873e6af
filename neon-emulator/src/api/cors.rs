//! Pages of other origins: a browser asks on their behalf whether they may call.
//! They may, as everybody may who has the key, which no browser adds by itself.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, x-request-id");
/// Of answers: others than these a page could not read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-neon-ret-request-id, retry-after");
/// How long a browser need not ask again.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");
/// Chromium's question before a page reaches the machine that it is shown on.
const ASKS_FOR_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

pub(super) async fn share(request: Request, next: Next) -> Response {
    let asked = request.headers();
    if !asked.contains_key(header::ORIGIN) {
        return next.run(request).await;
    }
    let is_question = request.method() == Method::OPTIONS
        && asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let is_private = asked.contains_key(ASKS_FOR_PRIVATE);
    let mut response = match is_question {
        true => StatusCode::NO_CONTENT.into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    let any = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    if !is_question {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        return response;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    if is_private {
        headers.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
    }
    response
}
