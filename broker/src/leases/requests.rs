//! Ids of requests that are about leases.

use jiff::Timestamp;

use super::Error;
use crate::names::LeaseId;
use crate::request_ids;
use crate::state::{Answered, Draft};

pub(super) use crate::request_ids::REMEMBERED_MAX;
pub use crate::request_ids::RequestId;

impl From<request_ids::Error> for Error {
    fn from(error: request_ids::Error) -> Self {
        match error {
            request_ids::Error::Reused(id) => Error::RequestIdReused(id),
            request_ids::Error::TooMany => Error::TooManyRequests,
        }
    }
}

/// The lease that a request was about when it came before.
pub(super) fn repeated(
    answered: Option<(&RequestId, &Answered)>,
    now: Timestamp,
) -> Result<Option<LeaseId>, Error> {
    // Written by us: it is a lease's name.
    let name = request_ids::repeated(answered, now)?;
    Ok(name.and_then(|name| name.parse().ok()))
}

/// As [`repeated`], by what is true inside a change.
pub(super) fn repeated_in(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<LeaseId>, Error> {
    let name = request_ids::repeated_in(draft, id, now)?;
    Ok(name.and_then(|name| name.parse().ok()))
}

/// Remembers which lease a request is about.
pub(super) fn remember(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    lease: LeaseId,
    now: Timestamp,
) -> Result<(), Error> {
    Ok(request_ids::remember(draft, id, lease.to_string(), now)?)
}
