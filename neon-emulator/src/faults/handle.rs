//! The faults of a running emulator, for who holds it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::{Method, Request, header};
use tower::ServiceExt;

use super::queue::{FaultId, FaultQueue, QueuedFault};
use super::{Fault, FaultError, Requests, RouteFault};
use crate::api::{API_PREFIX, Probe};

/// Queues faults and says which of them happened. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Faults {
    queue: Arc<FaultQueue>,
    /// Asked which routes there are; no handler is run.
    api: Router,
}

impl Faults {
    pub(crate) fn new(queue: Arc<FaultQueue>, api: Router) -> Self {
        Self { queue, api }
    }

    /// Queues a fault.
    ///
    /// # Errors
    /// When it can never happen: the error names the field.
    pub async fn queue(&self, fault: impl Into<Fault>) -> Result<QueuedFault, FaultError> {
        let fault = fault.into();
        if let Fault::Route(fault) = &fault {
            self.check_route(fault).await?;
        }
        self.queue.push(fault)
    }

    /// Every fault that was queued and not deleted, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<QueuedFault> {
        self.queue.list()
    }

    /// Waits until a fault has happened at least so often; false when it is
    /// deleted.
    pub async fn wait_for_hits(&self, id: FaultId, hits: u32) -> bool {
        self.queue.wait_for_hits(id, hits).await
    }

    /// Deletes a fault, spent or not; false when it is not there.
    pub fn delete(&self, id: FaultId) -> bool {
        self.queue.remove(id)
    }

    /// Deletes every fault.
    pub fn clear(&self) {
        self.queue.clear();
    }

    /// What was asked of the API since the start.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.queue.requests()
    }

    async fn check_route(&self, fault: &RouteFault) -> Result<(), FaultError> {
        let no_route = || {
            let problem = format!(
                "there is no route {:?}; one is written like /projects/{{project_id}}/branches",
                fault.path
            );
            FaultError::field("path", problem)
        };
        // No route has this method: the answer says which it has.
        let request = Request::builder()
            .method(Method::TRACE)
            .uri(format!("{API_PREFIX}{}", filled_in(&fault.path)))
            .extension(Probe)
            .body(Body::empty())
            .map_err(|_| no_route())?;
        let answer = match self.api.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let route = answer
            .extensions()
            .get::<MatchedPath>()
            .and_then(|matched| matched.as_str().strip_prefix(API_PREFIX))
            .ok_or_else(no_route)?;
        if route != fault.path {
            let problem = format!("the route is written {route}");
            return Err(FaultError::field("path", problem));
        }
        let methods = answer.headers().get(header::ALLOW);
        let methods = methods.and_then(|methods| methods.to_str().ok());
        let methods = methods.unwrap_or_default();
        if !methods
            .split(',')
            .any(|method| method == fault.method.as_str())
        {
            let problem = format!("{route} has {methods}, and no {}", fault.method);
            return Err(FaultError::field("method", problem));
        }
        Ok(())
    }
}

/// A path that the route's pattern matches.
fn filled_in(pattern: &str) -> String {
    pattern
        .split('/')
        .map(|segment| match segment.starts_with('{') {
            true => "x",
            false => segment,
        })
        .collect::<Vec<_>>()
        .join("/")
}
