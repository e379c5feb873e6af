//! Times in answers, to the second, as Neon writes them. Inside they are exact:
//! lists are sorted by them.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// The field of an annotation whose keys are the caller's.
const OWN: &str = "value";

/// Cuts the fractions of seconds off the times of an answer.
pub(super) async fn shorten(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == b"application/json");
    if !is_json || response.status().as_u16() >= 400 {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The answer is in memory already.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        let message = "the answer could not be written";
        return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = match std::str::from_utf8(&bytes) {
        Ok(text) => Body::from(shortened(text)),
        Err(_) => Body::from(bytes),
    };
    Response::from_parts(parts, body)
}

/// The same JSON, as serde_json writes it, with shorter times.
fn shortened(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    // Whether each object that is open is the caller's own, of free names.
    let mut objects: Vec<bool> = Vec::new();
    let mut name = "";
    let mut rest = json;
    while let Some(at) = rest.find(['"', '{', '}']) {
        let (before, after) = rest.split_at(at + 1);
        written.push_str(before);
        rest = after;
        match before.as_bytes().last() {
            Some(b'{') => objects.push(name == OWN || objects.last() == Some(&true)),
            Some(b'}') => drop(objects.pop()),
            _ => {
                let (text, after) = rest.split_at(string_length(rest));
                let is_name = after.starts_with("\":");
                if is_name {
                    name = text;
                }
                let is_ours = objects.last() != Some(&true);
                let short = in_seconds(text).filter(|_| !is_name && is_ours && is_time(name));
                written.push_str(&short.unwrap_or_else(|| text.to_owned()));
                // What follows the string's last quotation mark.
                rest = after.get(1..).unwrap_or_default();
                written.push('"');
            }
        }
    }
    written.push_str(rest);
    written
}

/// How long the string is whose first quotation mark was just read.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if !is_escaped => return at,
            b'\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

/// The time without its fraction, if it has one.
fn in_seconds(text: &str) -> Option<String> {
    let (seconds, fraction) = text.split_once('.')?;
    let is_time = fraction.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok();
    is_time.then(|| format!("{seconds}Z"))
}

/// Fields of which the API says that they are times.
fn is_time(name: &str) -> bool {
    name.ends_with("_at")
        || name.ends_with("timestamp")
        || matches!(
            name,
            "last_active"
                | "quota_reset_at_last"
                | "consumption_period_start"
                | "consumption_period_end"
                | "maintenance_scheduled_for"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lose_their_fractions_and_nothing_else_changes() {
        let json = r#"{"branch":{"name":"at 2026-01-01T00:00:00.5Z","created_at":"2026-01-01T00:00:00.123456789Z","updated_at":"2026-01-01T00:00:00Z","expires_at":null},"pagination":{"cursor":"2026-01-01T00:00:00.5Z"},"snapshots":[{"timestamp":"2026-01-01T00:00:00.5Z"}]}"#;
        let expected = r#"{"branch":{"name":"at 2026-01-01T00:00:00.5Z","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","expires_at":null},"pagination":{"cursor":"2026-01-01T00:00:00.5Z"},"snapshots":[{"timestamp":"2026-01-01T00:00:00Z"}]}"#;
        assert_eq!(shortened(json), expected);
    }

    #[test]
    fn what_callers_wrote_stays_as_it_is() {
        for json in [
            r#"{"annotation":{"value":{"made_at":"2026-01-01T00:00:00.5Z","x":"}"}}}"#,
            r#"{"name":"a\\","message":"\"made_at\":\"2026-01-01T00:00:00.5Z\"","id":1}"#,
            r#"["made_at","2026-01-01T00:00:00.5Z"]"#,
            "",
        ] {
            assert_eq!(shortened(json), json);
        }
    }
}
