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
    let names = request_ids::repeated(answered, now)?;
    Ok(names.and_then(|names| leases_of(names).next()))
}

/// As [`repeated`], by what is true inside a change.
pub(super) fn repeated_in(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<LeaseId>, Error> {
    let names = request_ids::repeated_in(draft, id, now)?;
    Ok(names.and_then(|names| leases_of(names).next()))
}

/// As [`repeated_in`], for a request that was about any number of leases.
pub(super) fn repeated_all_in(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<Vec<LeaseId>>, Error> {
    let names = request_ids::repeated_in(draft, id, now)?;
    Ok(names.map(|names| leases_of(names).collect()))
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
    let names: Vec<String> = leases.iter().map(ToString::to_string).collect();
    Ok(request_ids::remember(draft, id, names.join(" "), now)?)
}

/// Whether a request came before.
pub fn is_answered(
    draft: &Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<bool, Error> {
    Ok(repeated_all_in(draft, id, now)?.is_some())
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

/// Written by us: they are names of leases.
fn leases_of(names: &str) -> impl Iterator<Item = LeaseId> {
    names
        .split_whitespace()
        .filter_map(|name| name.parse().ok())
}
