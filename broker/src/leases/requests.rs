//! Ids of requests: a caller that did not hear the answer asks again under the
//! same id, and nothing is done twice.

use jiff::{SignedDuration, Timestamp};

use super::Error;
use crate::names::LeaseId;
use crate::state::{Answered, Draft, RequestKey};

/// The methods that take ids.
pub const METHODS: [&str; 5] = [
    "AcquireLease",
    "RenewLease",
    "ReleaseLease",
    "RevokeLeases",
    "RotateCredentials",
];

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
    let leases = repeated_all(answered, now)?;
    Ok(leases.and_then(|leases| leases.first().copied()))
}

/// As [`repeated`], for a request that was about any number of leases.
fn repeated_all(
    answered: Option<(&RequestId, &Answered)>,
    now: Timestamp,
) -> Result<Option<Vec<LeaseId>>, Error> {
    match answered {
        Some((_, answered)) if answered.expire_time <= now => Ok(None),
        Some((id, answered)) if answered.body != id.body => Err(Error::RequestIdReused(id.key.id)),
        // Written by us: they are names of leases.
        Some((_, answered)) => {
            let names = answered.resource.split_whitespace();
            Ok(Some(names.filter_map(|name| name.parse().ok()).collect()))
        }
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

/// As [`repeated_all`], by what is true inside a change.
pub(super) fn repeated_all_in(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<Vec<LeaseId>>, Error> {
    repeated_all(id.and_then(|id| Some((id, draft.request(&id.key)?))), now)
}

/// Remembers which lease a request is about.
pub(super) fn remember(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    lease: LeaseId,
    now: Timestamp,
) -> Result<(), Error> {
    remember_all(draft, id, &[lease], now)
}

/// Remembers which leases a request is about.
pub(super) fn remember_all(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    leases: &[LeaseId],
    now: Timestamp,
) -> Result<(), Error> {
    let Some(RequestId { key, body }) = id else {
        return Ok(());
    };
    if draft.requests_count() >= REMEMBERED_MAX {
        return Err(Error::TooManyRequests);
    }
    let names: Vec<String> = leases.iter().map(ToString::to_string).collect();
    let end = now.checked_add(SignedDuration::from_hours(REMEMBERED_HOURS));
    let answered = Answered {
        body: body.clone(),
        resource: names.join(" "),
        expire_time: end.unwrap_or(Timestamp::MAX),
    };
    draft.request_put(key.clone(), answered);
    Ok(())
}

/// Whether a request that is about no lease came before; remembers it if not.
pub fn is_repeated(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<bool, Error> {
    if repeated_all_in(draft, id, now)?.is_some() {
        return Ok(true);
    }
    remember_all(draft, id, &[], now)?;
    Ok(false)
}
