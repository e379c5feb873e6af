//! Ids of requests: a caller that did not hear the answer asks again under the
//! same id, and nothing is done twice.

use jiff::{SignedDuration, Timestamp};

use super::Error;
use crate::names::LeaseId;
use crate::state::{Answered, Draft, RequestKey};

/// The methods that take ids.
pub const METHODS: [&str; 3] = ["AcquireLease", "RenewLease", "ReleaseLease"];

/// How long a request is remembered, in hours.
const REMEMBERED_HOURS: i64 = 24;
/// How many requests are remembered, in memory and in rows of some hundred bytes.
pub(super) const REMEMBERED_MAX: usize = 100_000;

/// A request's id, and what it must not be used for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// Whose id it is, and of which method.
    pub key: RequestKey,
    /// The hash of the request without its id.
    pub body: Vec<u8>,
}

/// The lease that a request was about when it came before.
pub(super) fn repeated(
    answered: Option<(&RequestId, &Answered)>,
    now: Timestamp,
) -> Result<Option<LeaseId>, Error> {
    match answered {
        Some((_, answered)) if answered.expire_time <= now => Ok(None),
        Some((id, answered)) if answered.body != id.body => Err(Error::RequestIdReused(id.key.id)),
        // Written by us: it is a lease's name.
        Some((_, answered)) => Ok(answered.resource.parse().ok()),
        None => Ok(None),
    }
}

/// As [`repeated`], by what is true inside a change.
pub(super) fn repeated_in(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<LeaseId>, Error> {
    repeated(id.and_then(|id| Some((id, draft.request(&id.key)?))), now)
}

/// Remembers which lease a request is about.
pub(super) fn remember(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    lease: LeaseId,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(RequestId { key, body }) = id else {
        return Ok(());
    };
    if draft.requests_count() >= REMEMBERED_MAX {
        return Err(Error::TooManyRequests);
    }
    let end = now.checked_add(SignedDuration::from_hours(REMEMBERED_HOURS));
    let answered = Answered {
        body: body.clone(),
        resource: lease.to_string(),
        expire_time: end.unwrap_or(Timestamp::MAX),
    };
    draft.request_put(key.clone(), answered);
    Ok(())
}
