//! Answers that do not arrive whole.
//!
//! hyper writes an answer's head together with what its body has at once. A body
//! that fails at once closes the connection before anything was written; one
//! that first lets hyper write closes it in the middle.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame};

/// A body that ends in an error.
#[derive(Debug)]
struct Broken {
    beginning: Option<Bytes>,
    /// hyper has had its turn to write the beginning.
    is_written: bool,
}

/// No byte of an answer: the connection is closed.
pub(crate) fn lost() -> Response {
    Response::new(Body::new(Broken {
        beginning: None,
        is_written: true,
    }))
}

/// The answer's head, half of its body, and then the connection is closed.
pub(crate) fn truncated(response: Response, whole: &Bytes) -> Response {
    let (mut parts, _) = response.into_parts();
    let length = HeaderValue::from(whole.len());
    parts.headers.insert(header::CONTENT_LENGTH, length);
    let body = Broken {
        beginning: Some(whole.slice(..whole.len() / 2)),
        is_written: false,
    };
    Response::from_parts(parts, Body::new(body))
}

impl HttpBody for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(Frame::data(beginning))));
        }
        if !self.is_written {
            self.is_written = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, "a test asked for it");
        Poll::Ready(Some(Err(error)))
    }
}

#[cfg(test)]
mod tests;
