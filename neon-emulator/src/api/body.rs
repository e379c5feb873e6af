//! Bodies: read whole before anything is done, and refused when too long.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use tokio::time::timeout;

use super::error::{ApiError, ApiResult};

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Of a longer body so much is received and thrown away: most clients look for
/// the answer only when they have sent all of it.
const DISCARDED_BYTES_MAX: u64 = 256 << 20;
/// How long a body may take to arrive.
const BODY_SECONDS_MAX: u64 = 60;

/// Gives handlers the whole body, or refuses the request. It is the same for
/// every route, whether it reads a body or not.
pub(super) async fn limit(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let duration = Duration::from_secs(BODY_SECONDS_MAX);
    let read = match timeout(duration, read(&parts.headers, body)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {BODY_SECONDS_MAX} s"),
        )),
    };
    match read {
        Ok(bytes) => {
            let request = Request::from_parts(parts, Body::from(bytes));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn read(headers: &HeaderMap, mut body: Body) -> ApiResult<Vec<u8>> {
    let announced = body.size_hint().lower();
    let asks_first = headers.contains_key(header::EXPECT);
    if announced > DISCARDED_BYTES_MAX || (asks_first && announced > BODY_BYTES_MAX as u64) {
        return Err(too_long());
    }
    let mut kept = Vec::new();
    let mut received: u64 = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        received += data.len() as u64;
        if received <= BODY_BYTES_MAX as u64 {
            kept.extend_from_slice(&data);
        } else if received > DISCARDED_BYTES_MAX {
            break;
        } else {
            kept = Vec::new();
        }
    }
    match received > BODY_BYTES_MAX as u64 {
        true => Err(too_long()),
        false => Ok(kept),
    }
}

fn too_long() -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is too long: at most {BODY_BYTES_MAX} bytes are read"),
    )
}
