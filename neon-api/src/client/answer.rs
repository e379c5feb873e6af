//! One answer: read within bounds, and taken apart.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::request::no_answer;
use super::scrub;
use crate::types::GeneralError;
use crate::{Error, Route, Secret};

/// The most that is read of a success: the largest page of branches, 10,000,
/// with annotations, several times over.
const SUCCESS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most that is read of anything else.
const FAILURE_BYTES_MAX: usize = 64 * 1024;

/// Where Neon repeats the request's id.
const REQUEST_ID_HEADER: &str = "x-neon-ret-request-id";

/// A success.
pub(super) struct Answer {
    route: Route,
    status: StatusCode,
    body: Vec<u8>,
}

/// What came of reading a body.
enum Body {
    Whole(Vec<u8>),
    /// Larger than allowed; this much of it was read.
    Beginning(Vec<u8>),
}

impl Answer {
    /// Reads `response` to its end. What is no success comes out as an error.
    pub(super) async fn read(
        mut response: Response,
        route: Route,
        key: &Secret,
    ) -> Result<Answer, Error> {
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(response, route, key).await);
        }
        match read_body(&mut response, SUCCESS_BYTES_MAX).await {
            Ok(Body::Whole(body)) => Ok(Answer {
                route,
                status,
                body,
            }),
            Ok(Body::Beginning(_)) => Err(Error::TooLarge {
                route,
                status: status.as_u16(),
                bytes_max: SUCCESS_BYTES_MAX,
            }),
            Err(error) => Err(no_answer(route, error)),
        }
    }

    /// Whether the answer is "no content".
    pub(super) fn is_empty(&self) -> bool {
        self.status == StatusCode::NO_CONTENT
    }

    /// The body as what this route answers with.
    pub(super) fn decode<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Decode {
            route: self.route,
            status: self.status.as_u16(),
            problem: scrub::decode_problem(&error, self.body.len()),
        })
    }
}

/// The error that an answer without success stands for.
async fn refusal(mut response: Response, route: Route, key: &Secret) -> Error {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let header_id = header_text(response.headers(), REQUEST_ID_HEADER).map(str::to_owned);
    let body = match read_body(&mut response, FAILURE_BYTES_MAX).await {
        Ok(Body::Whole(body) | Body::Beginning(body)) => body,
        // The status is what decides; the words are lost.
        Err(_) => Vec::new(),
    };
    match serde_json::from_slice::<GeneralError>(&body) {
        Ok(error) => Error::Api {
            route,
            status,
            code: scrub::text(&error.code, key),
            message: scrub::text(&error.message, key),
            request_id: error
                .request_id
                .or(header_id)
                .filter(|id| !id.is_empty())
                .map(|id| scrub::text(&id, key)),
            retry_after,
        },
        Err(_) => Error::NotJson {
            route,
            status,
            excerpt: scrub::excerpt(&String::from_utf8_lossy(&body), key),
            retry_after,
        },
    }
}

async fn read_body(response: &mut Response, bytes_max: usize) -> Result<Body, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = bytes_max - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok(Body::Beginning(body));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body::Whole(body))
}

/// How long to wait: seconds, or a date, which is taken against the answer's own
/// date, so that this machine's clock does not matter.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header_text(headers, RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(text)?;
    let from = http_date(header_text(headers, DATE.as_str())?)?;
    // A date gone by asks for no wait.
    Some(until.duration_since(from).try_into().unwrap_or_default())
}

fn http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
