//! Faults that a test asked for, put into the API's answers; and the record of
//! what was asked.

use std::sync::Arc;
use std::time::Duration;

use axum::RequestExt;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use neon_api::types::GeneralError;
use tracing::{info, warn};

use super::API_PREFIX;
use super::Shared;
use super::error::ApiError;
use crate::engine::Engine;
use crate::faults::{RouteEffect, Seen, lost, truncated};

/// The most that is read of a body to look for a text in it.
const BODY_BYTES_MAX: usize = 2 << 20;

/// In a request's extensions: asks which route it is for, and for nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe;

/// In an answer's extensions: none of it will be sent.
#[derive(Debug, Clone, Copy)]
struct NoAnswer;

/// Notes every request and how it was answered.
pub(super) async fn record(State(engine): Shared, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    if request.extensions().get::<Probe>().is_some() {
        let mut answer = Response::default();
        if let Some(matched) = matched {
            answer.extensions_mut().insert(matched);
        }
        return answer;
    }
    let guard =
        engine
            .faults()
            .request_begun(request.method(), route(matched.as_ref()), path(&request));
    let response = next.run(request).await;
    if response.extensions().get::<NoAnswer>().is_none() {
        guard.answered(response.status().as_u16());
    }
    response
}

/// Answers badly where a fault is queued for the request.
pub(super) async fn inject(State(engine): Shared, request: Request, next: Next) -> Response {
    let (request, effect) = match take(&engine, request).await {
        Ok(taken) => taken,
        Err(error) => return error.into_response(),
    };
    let Some(effect) = effect else {
        return next.run(request).await;
    };
    info!(method = %request.method(), path = path(&request), ?effect, "a fault, as asked for");
    match effect {
        RouteEffect::Locked => ApiError::locked().into_response(),
        RouteEffect::TooManyRequests {
            retry_after_seconds,
        } => {
            let message = "rate limit exceeded, slow down";
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message);
            let mut response = error.into_response();
            let seconds = HeaderValue::from(retry_after_seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        RouteEffect::Unavailable => {
            let message = "the service is temporarily unavailable, please retry";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
        }
        RouteEffect::GatewayTimeout { after } => {
            if after {
                next.run(request).await;
            }
            gateway_page()
        }
        RouteEffect::LostAnswer => {
            next.run(request).await;
            let mut nothing = lost();
            nothing.extensions_mut().insert(NoAnswer);
            nothing
        }
        RouteEffect::Truncated => cut(next.run(request).await).await,
        RouteEffect::Delay {
            milliseconds,
            after,
        } => {
            let duration = Duration::from_millis(milliseconds);
            late(engine, duration, after, request, next).await
        }
        RouteEffect::EndpointDies => kill_endpoint(&engine, request, next).await,
    }
}

/// The fault for a request, which is given back with its body.
async fn take(
    engine: &Engine,
    request: Request,
) -> Result<(Request, Option<RouteEffect>), ApiError> {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let uri = path(&request).to_owned();
    let seen = Seen {
        method: &method,
        route: route(matched.as_ref()),
        path: &uri,
    };
    if !engine.faults().wants_body(&seen) {
        let effect = engine.faults().take_for_request(&seen, &[]);
        return Ok((request, effect));
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let message = "body: cannot be read, or is too large to look for a fault's text in it";
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    let effect = engine.faults().take_for_request(&seen, &bytes);
    Ok((Request::from_parts(parts, Body::from(bytes)), effect))
}

/// What a gateway answers that has waited for too long.
fn gateway_page() -> Response {
    let page = "<!DOCTYPE html>\n<html lang=\"en-US\">\n<head>\n<title>console.neon.tech | 524: A timeout occurred</title>\n</head>\n<body>\n<h1>A timeout occurred <span>Error code 524</span></h1>\n<p>The origin web server timed out responding to this request.</p>\n</body>\n</html>\n";
    let html = HeaderValue::from_static("text/html; charset=UTF-8");
    let mut response = Response::new(Body::from(page));
    // 524 is a gateway's own, and valid as a number.
    *response.status_mut() = StatusCode::from_u16(524).unwrap_or(StatusCode::GATEWAY_TIMEOUT);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, html);
    headers.insert(header::SERVER, HeaderValue::from_static("cloudflare"));
    response
}

async fn cut(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // Else the request id would be added, to a whole body.
    let error = parts.extensions.remove::<GeneralError>();
    let bytes = match error.map(|error| serde_json::to_vec(&error)) {
        Some(Ok(bytes)) => Bytes::from(bytes),
        // Handlers' bodies are whole from the start.
        _ => to_bytes(body, usize::MAX).await.unwrap_or_default(),
    };
    truncated(Response::from_parts(parts, Body::empty()), &bytes)
}

/// As on Neon, a caller that gives up stops nothing.
async fn late(
    engine: Arc<Engine>,
    duration: Duration,
    after: bool,
    request: Request,
    next: Next,
) -> Response {
    let worker = Arc::clone(&engine);
    let answered = engine.spawn(async move {
        if !after {
            worker.pause(duration).await;
        }
        let response = next.run(request).await;
        if after {
            worker.pause(duration).await;
        }
        response
    });
    answered.await.unwrap_or_else(|error| {
        warn!(%error, "a late request ended early");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()
    })
}

async fn kill_endpoint(engine: &Arc<Engine>, mut request: Request, next: Next) -> Response {
    let names = request.extract_parts::<RawPathParams>().await;
    let response = next.run(request).await;
    let name = |wanted: &str| {
        let mut names = names.iter().flatten();
        names.find_map(|(name, value)| (name == wanted).then(|| value.to_owned()))
    };
    let endpoint = match (name("endpoint_id"), name("branch_id")) {
        (Some(endpoint), _) => endpoint.parse().ok(),
        (None, Some(branch)) => branch
            .parse()
            .ok()
            .and_then(|branch| engine.writing_endpoint(&branch)),
        (None, None) => None,
    };
    match endpoint {
        Some(endpoint) => engine.kill_endpoint(&endpoint).await,
        None => warn!("no endpoint to kill"),
    }
    response
}

fn route(matched: Option<&MatchedPath>) -> &str {
    let route = matched.map_or("", MatchedPath::as_str);
    route.strip_prefix(API_PREFIX).unwrap_or(route)
}

/// Below the prefix, which the router has taken off.
fn path(request: &Request) -> &str {
    request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str())
}
