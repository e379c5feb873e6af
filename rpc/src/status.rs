//! Refusals as gRPC statuses with google.rpc details, so that a caller can act
//! on them without reading prose. Each carries an ErrorInfo whose reason is one
//! of docs/ERRORS.md.

use std::{borrow::Cow, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every ErrorInfo that this system's servers answer with.
pub const DOMAIN: &str = "branch-broker";

/// The reason of every INVALID_ARGUMENT that names fields.
pub const REASON_INVALID_FIELDS: &str = "INVALID_FIELDS";

/// How many fields a refusal names. Details travel as a header, and clients refuse
/// headers of more than some kilobytes.
pub const VIOLATIONS_MAX: usize = 32;

/// INVALID_ARGUMENT for one field. For several at once: [`FieldViolations`].
pub fn invalid_argument(field: impl Into<String>, description: impl Into<String>) -> Status {
    FieldViolation::new(field, description).into()
}

/// NOT_FOUND for a resource, with a ResourceInfo: `type_name` as in
/// `users.v1.User`, `name` as the caller wrote it.
pub fn not_found(
    reason: &'static str,
    type_name: &str,
    name: impl Into<String>,
    message: impl Into<String>,
) -> Status {
    Refusal::new(Code::NotFound, reason, message)
        .resource(type_name, name)
        .into()
}

/// ALREADY_EXISTS for a resource, with a ResourceInfo.
pub fn already_exists(
    reason: &'static str,
    type_name: &str,
    name: impl Into<String>,
    message: impl Into<String>,
) -> Status {
    Refusal::new(Code::AlreadyExists, reason, message)
        .resource(type_name, name)
        .into()
}

/// FAILED_PRECONDITION: the same call works once the world has changed.
pub fn failed_precondition(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::FailedPrecondition, reason, message).into()
}

/// PERMISSION_DENIED.
pub fn permission_denied(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::PermissionDenied, reason, message).into()
}

/// ABORTED: somebody else came between; read again and try again.
pub fn aborted(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::Aborted, reason, message).into()
}

/// RESOURCE_EXHAUSTED, with a RetryInfo where waiting helps.
pub fn resource_exhausted(
    reason: &'static str,
    message: impl Into<String>,
    retry_after: Option<Duration>,
) -> Status {
    let refusal = Refusal::new(Code::ResourceExhausted, reason, message);
    match retry_after {
        Some(delay) => refusal.retry_after(delay).into(),
        None => refusal.into(),
    }
}

/// UNAVAILABLE, with a RetryInfo: the same call may work after `retry_after`.
pub fn unavailable(
    reason: &'static str,
    message: impl Into<String>,
    retry_after: Duration,
) -> Status {
    Refusal::new(Code::Unavailable, reason, message)
        .retry_after(retry_after)
        .into()
}

/// DEADLINE_EXCEEDED.
pub fn deadline_exceeded(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::DeadlineExceeded, reason, message).into()
}

/// INTERNAL. What went wrong belongs in the log; `message` is for the caller.
pub fn internal(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::Internal, reason, message).into()
}

/// UNIMPLEMENTED.
pub fn unimplemented(reason: &'static str, message: impl Into<String>) -> Status {
    Refusal::new(Code::Unimplemented, reason, message).into()
}

/// A status in the making, for what the functions here do not cover.
///
/// ```
/// use rpc::status::Refusal;
/// let status: tonic::Status = Refusal::new(tonic::Code::Aborted, "LEASE_LOST", "the lease is gone")
///     .metadata("lease", "leases/7")
///     .into();
/// ```
#[must_use = "a refusal does nothing until it is answered"]
#[derive(Debug)]
pub struct Refusal {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(Cow<'static, str>, String)>,
    details: ErrorDetails,
}

/// The longest message, in bytes. It travels as a header, percent-encoded, beside the
/// details, and what is more than some kilobytes in all is refused on its way.
const MESSAGE_BYTES_MAX: usize = 2_000;

fn capped(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

impl Refusal {
    /// A refusal whose ErrorInfo carries `reason`, in UPPER_SNAKE. `message`
    /// is for a person: no secrets, no SQL.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: capped(message.into()),
            metadata: Vec::new(),
            details: ErrorDetails::new(),
        }
    }

    /// Adds a pair to the ErrorInfo's metadata.
    pub fn metadata(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Adds a ResourceInfo.
    pub fn resource(mut self, type_name: &str, name: impl Into<String>) -> Self {
        self.details
            .set_resource_info(type_name, name.into(), "", self.message.clone());
        self
    }

    /// Adds a RetryInfo.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    /// Adds a violation to the BadRequest.
    pub fn violation(mut self, violation: impl Into<FieldViolation>) -> Self {
        let violation = violation.into();
        self.details
            .add_bad_request_violation(violation.field, violation.description);
        self
    }
}

impl From<Refusal> for Status {
    fn from(mut refusal: Refusal) -> Self {
        let metadata: std::collections::HashMap<String, String> = refusal
            .metadata
            .into_iter()
            .map(|(key, value)| (key.into_owned(), value))
            .collect();
        refusal
            .details
            .set_error_info(refusal.reason, DOMAIN, metadata);
        Status::with_error_details(refusal.code, refusal.message, refusal.details)
    }
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct FieldViolation {
    /// The field's path in the request, as in `user.email`.
    pub field: String,
    /// What it must be, as in `must not be empty`.
    pub description: String,
}

impl FieldViolation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

impl From<FieldViolation> for Status {
    fn from(violation: FieldViolation) -> Self {
        FieldViolations(vec![violation]).into()
    }
}

/// Everything that is wrong with a request, collected so that a caller hears of
/// all of it at once, or of [`VIOLATIONS_MAX`]. Becomes a [`Status`] when asked to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldViolations(Vec<FieldViolation>);

impl FieldViolations {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a violation of `field` unless `holds`.
    pub fn check(
        &mut self,
        holds: bool,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> &mut Self {
        if !holds {
            self.0.push(FieldViolation::new(field, description));
        }
        self
    }

    /// Notes a violation.
    pub fn add(&mut self, violation: impl Into<FieldViolation>) -> &mut Self {
        self.0.push(violation.into());
        self
    }

    /// Notes what others have found.
    pub fn append(&mut self, mut others: Self) -> &mut Self {
        self.0.append(&mut others.0);
        self
    }

    /// The value in `result`; or notes the violation that it is.
    pub fn take<T>(&mut self, result: Result<T, impl Into<FieldViolation>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(violation) => {
                self.add(violation);
                None
            }
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The violations, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldViolation> {
        self.0.iter()
    }

    /// `Ok` when nothing is wrong.
    ///
    /// # Errors
    /// The violations. `?` makes a status of them.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<FieldViolations> for Status {
    fn from(violations: FieldViolations) -> Self {
        let message = match violations.0.as_slice() {
            [only] => only.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            [] => "the request is not valid".to_owned(),
        };
        let refusal = Refusal::new(Code::InvalidArgument, REASON_INVALID_FIELDS, message);
        violations
            .0
            .into_iter()
            .take(VIOLATIONS_MAX)
            .fold(refusal, Refusal::violation)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_told_at_once() {
        let mut violations = FieldViolations::new();
        violations
            .check(false, "user.email", "must not be empty")
            .check(true, "user.name", "must not be empty")
            .check(false, "user.age", "must be between 0 and 150");
        let taken = violations.take(crate::page::page_size(-1));
        assert_eq!(taken, None);
        let status = violations.into_result().map_err(Status::from);
        let status = status.err().unwrap_or_else(|| Status::ok(""));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "user.email: must not be empty (and 2 more)"
        );
        let details = status.get_error_details();
        let fields: Vec<_> = details
            .bad_request()
            .map(|bad| {
                bad.field_violations
                    .iter()
                    .map(|v| v.field.as_str())
                    .collect()
            })
            .unwrap_or_default();
        assert_eq!(fields, ["user.email", "user.age", "page_size"]);
        let info = details
            .error_info()
            .map(|info| (&*info.reason, &*info.domain));
        assert_eq!(info, Some((REASON_INVALID_FIELDS, DOMAIN)));
        assert_eq!(FieldViolations::new().into_result(), Ok(()));
    }

    #[test]
    fn a_refusal_fits_a_header() {
        let mut violations = FieldViolations::new();
        for index in 0..1_000 {
            violations.add(FieldViolation::new(
                format!("ids[{index}]"),
                "must be 1 or more",
            ));
        }
        let status = Status::from(violations);
        assert_eq!(status.message(), "ids[0]: must be 1 or more (and 999 more)");
        let bad = status.get_details_bad_request();
        let named = bad.map(|bad| bad.field_violations.len());
        assert_eq!(named, Some(VIOLATIONS_MAX));
        assert!(status.details().len() < 4_096);
    }

    #[test]
    fn details_decode_again() {
        let delay = Duration::from_millis(1500);
        let status = unavailable("BROKER_UNREACHABLE", "the broker does not answer", delay);
        assert_eq!(status.code(), Code::Unavailable);
        let details = status.get_error_details();
        assert_eq!(
            details.retry_info().and_then(|i| i.retry_delay),
            Some(delay)
        );
        assert_eq!(
            details.error_info().map(|i| &*i.reason),
            Some("BROKER_UNREACHABLE")
        );

        let status = not_found(
            "USER_NOT_FOUND",
            "users.v1.User",
            "7",
            "no user has the id 7",
        );
        assert_eq!(status.code(), Code::NotFound);
        let details = status.get_error_details();
        let resource = details
            .resource_info()
            .map(|i| (&*i.resource_type, &*i.resource_name));
        assert_eq!(resource, Some(("users.v1.User", "7")));

        let status: Status = Refusal::new(Code::Aborted, "LEASE_LOST", "gone")
            .metadata("lease", "leases/7")
            .into();
        let info = status.get_details_error_info();
        let lease = info.and_then(|i| i.metadata.get("lease").cloned());
        assert_eq!(lease.as_deref(), Some("leases/7"));
    }
}
