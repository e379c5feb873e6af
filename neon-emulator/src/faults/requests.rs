//! What was asked of the API since the start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::http::Method;
use serde::{Deserialize, Serialize};

use super::queue::FaultQueue;

/// Requests that are listed one by one; all are counted.
const LATEST_MAX: usize = 10_000;

/// What was asked of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// How often, since the start; requests that are over.
    pub counts: Vec<RequestCount>,
    /// The last ten thousand, in the order in which they came.
    pub latest: Vec<RequestEntry>,
}

/// How often a route was asked and answered so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCount {
    /// The HTTP method.
    pub method: String,
    /// The route: `/projects/{project_id}/branches`; empty when there is none.
    pub route: String,
    /// The HTTP status; absent when no answer was sent.
    pub status: Option<u16>,
    /// How often.
    pub count: u64,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestEntry {
    /// Counts the requests since the start, from 1.
    pub number: u64,
    /// The HTTP method.
    pub method: String,
    /// The route: `/projects/{project_id}/branches`; empty when there is none.
    pub route: String,
    /// The path as it was asked for, with its query.
    pub path: String,
    /// The HTTP status; absent when no answer was sent, or not yet.
    pub status: Option<u16>,
}

/// The requests, as they are kept.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    counts: BTreeMap<(String, String, Option<u16>), u64>,
    latest: VecDeque<RequestEntry>,
    last_number: u64,
}

impl RequestLog {
    pub(super) fn begin(&mut self, method: &Method, route: &str, path: &str) -> u64 {
        self.last_number += 1;
        if self.latest.len() == LATEST_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(RequestEntry {
            number: self.last_number,
            method: method.to_string(),
            route: route.to_owned(),
            path: path.to_owned(),
            status: None,
        });
        self.last_number
    }

    pub(super) fn requests(&self) -> Requests {
        let counts = self.counts.iter();
        Requests {
            counts: counts
                .map(|((method, route, status), count)| RequestCount {
                    method: method.clone(),
                    route: route.clone(),
                    status: *status,
                    count: *count,
                })
                .collect(),
            latest: self.latest.iter().cloned().collect(),
        }
    }

    fn end(&mut self, number: u64, method: &Method, route: &str, status: Option<u16>) {
        let key = (method.to_string(), route.to_owned(), status);
        *self.counts.entry(key).or_default() += 1;
        // It may have been pushed out by ten thousand later ones.
        let mut latest = self.latest.iter_mut().rev();
        if let Some(entry) = latest.find(|entry| entry.number == number) {
            entry.status = status;
        }
    }
}

/// A request that is not over. Dropped before its end, it got no answer.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    queue: Arc<FaultQueue>,
    number: u64,
    method: Method,
    route: String,
    status: Option<u16>,
}

impl RequestGuard {
    pub(super) fn begin(queue: Arc<FaultQueue>, method: &Method, route: &str, path: &str) -> Self {
        let number = queue.requests_lock().begin(method, route, path);
        Self {
            queue,
            number,
            method: method.clone(),
            route: route.to_owned(),
            status: None,
        }
    }

    /// It is over, and answered so.
    pub(crate) fn answered(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut log = self.queue.requests_lock();
        log.end(self.number, &self.method, &self.route, self.status);
    }
}
