//! A fault as JSON.

use axum::http::Method;
use neon_api::types::OperationAction;
use serde::{Deserialize, Serialize};

use crate::faults::{Fault, FaultError, OperationEffect, OperationFault, RouteEffect, RouteFault};

/// What a 429 asks for where the test does not say.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A fault as it is written. Which fields go with which kind: docs/FAULTS.md.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultBody {
    fault: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<OperationAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_contains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_contains: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Locked,
    TooManyRequests,
    Unavailable,
    GatewayTimeout,
    LostAnswer,
    Truncated,
    Delay,
    EndpointDies,
    OperationFails,
}

impl FaultBody {
    /// What it asks for; an error names the field.
    pub(super) fn read(mut self) -> Result<Fault, FaultError> {
        let kind = self.fault.take();
        let kind = kind.ok_or_else(|| FaultError::field("fault", "is missing"))?;
        let count = self.count.take().unwrap_or(1);
        let fault = match self.operation.take() {
            Some(action) => {
                let effect = self.operation_effect(kind)?;
                let mut fault = OperationFault::new(action, effect).times(count);
                fault.branch = self.branch.take();
                Fault::Operation(fault)
            }
            None => {
                let method = self.method.take().ok_or_else(no_target)?;
                let path = self.path.take().ok_or_else(|| {
                    FaultError::field("path", "is missing: the route that method is for")
                })?;
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| FaultError::field("method", "is no HTTP method"))?;
                let effect = self.route_effect(kind)?;
                let mut fault = RouteFault::new(method, path, effect).times(count);
                fault.path_contains = self.path_contains.take();
                fault.body_contains = self.body_contains.take();
                Fault::Route(fault)
            }
        };
        // Everything that belongs to the fault was taken.
        match self.left_over() {
            Some(field) => Err(FaultError::field(field, "this fault does not have it")),
            None => Ok(fault),
        }
    }

    fn route_effect(&mut self, kind: Kind) -> Result<RouteEffect, FaultError> {
        Ok(match kind {
            Kind::Locked => RouteEffect::Locked,
            Kind::TooManyRequests => RouteEffect::TooManyRequests {
                retry_after_seconds: self
                    .retry_after_seconds
                    .take()
                    .unwrap_or(RETRY_AFTER_SECONDS),
            },
            Kind::Unavailable => RouteEffect::Unavailable,
            Kind::GatewayTimeout => RouteEffect::GatewayTimeout {
                after: self.take_after()?,
            },
            Kind::LostAnswer => RouteEffect::LostAnswer,
            Kind::Truncated => RouteEffect::Truncated,
            Kind::Delay => RouteEffect::Delay {
                milliseconds: self.take_milliseconds()?,
                after: self.take_after()?,
            },
            Kind::EndpointDies => RouteEffect::EndpointDies,
            Kind::OperationFails => {
                let problem = "operation_fails is for an operation: say which in `operation`";
                return Err(FaultError::field("fault", problem));
            }
        })
    }

    fn operation_effect(&mut self, kind: Kind) -> Result<OperationEffect, FaultError> {
        Ok(match kind {
            Kind::OperationFails => OperationEffect::Fails {
                error: self
                    .error
                    .take()
                    .ok_or_else(|| FaultError::field("error", "is missing: why it fails"))?,
            },
            Kind::Delay => OperationEffect::Delay {
                milliseconds: self.take_milliseconds()?,
                after: self.take_after()?,
            },
            Kind::EndpointDies => OperationEffect::EndpointDies,
            Kind::Locked
            | Kind::TooManyRequests
            | Kind::Unavailable
            | Kind::GatewayTimeout
            | Kind::LostAnswer
            | Kind::Truncated => {
                let problem = "it is for a request: say which in `method` and `path`";
                return Err(FaultError::field("fault", problem));
            }
        })
    }

    fn take_after(&mut self) -> Result<bool, FaultError> {
        let missing = "is missing: whether the work is done first";
        let after = self.after.take();
        after.ok_or_else(|| FaultError::field("after", missing))
    }

    fn take_milliseconds(&mut self) -> Result<u64, FaultError> {
        let milliseconds = self.milliseconds.take();
        milliseconds.ok_or_else(|| FaultError::field("milliseconds", "is missing: how late"))
    }

    fn left_over(&self) -> Option<&'static str> {
        [
            ("method", self.method.is_some()),
            ("path", self.path.is_some()),
            ("path_contains", self.path_contains.is_some()),
            ("body_contains", self.body_contains.is_some()),
            ("branch", self.branch.is_some()),
            ("after", self.after.is_some()),
            ("milliseconds", self.milliseconds.is_some()),
            ("retry_after_seconds", self.retry_after_seconds.is_some()),
            ("error", self.error.is_some()),
        ]
        .into_iter()
        .find_map(|(field, is_left)| is_left.then_some(field))
    }

    /// As [`FaultBody::read`] takes it.
    pub(super) fn write(fault: Fault) -> Self {
        match fault {
            Fault::Route(fault) => Self {
                method: Some(fault.method.to_string()),
                path: Some(fault.path),
                path_contains: fault.path_contains,
                body_contains: fault.body_contains,
                count: Some(fault.count),
                ..Self::of_route(fault.effect)
            },
            Fault::Operation(fault) => Self {
                operation: Some(fault.action),
                branch: fault.branch,
                count: Some(fault.count),
                ..Self::of_operation(fault.effect)
            },
        }
    }

    fn of_route(effect: RouteEffect) -> Self {
        match effect {
            RouteEffect::Locked => Self::of(Kind::Locked),
            RouteEffect::TooManyRequests {
                retry_after_seconds,
            } => Self {
                retry_after_seconds: Some(retry_after_seconds),
                ..Self::of(Kind::TooManyRequests)
            },
            RouteEffect::Unavailable => Self::of(Kind::Unavailable),
            RouteEffect::GatewayTimeout { after } => Self {
                after: Some(after),
                ..Self::of(Kind::GatewayTimeout)
            },
            RouteEffect::LostAnswer => Self::of(Kind::LostAnswer),
            RouteEffect::Truncated => Self::of(Kind::Truncated),
            RouteEffect::Delay {
                milliseconds,
                after,
            } => Self::of_delay(milliseconds, after),
            RouteEffect::EndpointDies => Self::of(Kind::EndpointDies),
        }
    }

    fn of_operation(effect: OperationEffect) -> Self {
        match effect {
            OperationEffect::Fails { error } => Self {
                error: Some(error),
                ..Self::of(Kind::OperationFails)
            },
            OperationEffect::Delay {
                milliseconds,
                after,
            } => Self::of_delay(milliseconds, after),
            OperationEffect::EndpointDies => Self::of(Kind::EndpointDies),
        }
    }

    fn of_delay(milliseconds: u64, after: bool) -> Self {
        Self {
            milliseconds: Some(milliseconds),
            after: Some(after),
            ..Self::of(Kind::Delay)
        }
    }

    fn of(kind: Kind) -> Self {
        Self {
            fault: Some(kind),
            ..Self::default()
        }
    }
}

fn no_target() -> FaultError {
    let problem = "is missing: method and path, or operation, say what the fault is for";
    FaultError::field("method", problem)
}
