//! Ids of requests: a caller that did not hear the answer asks again under the
//! same id, and nothing is done twice.

use jiff::{SignedDuration, Timestamp};

use crate::gate;
use crate::state::{Answered, Draft, RequestKey};

/// The methods that take ids.
pub const METHODS: [&str; 15] = [
    "AcquireLease",
    "RenewLease",
    "ReleaseLease",
    "RevokeLeases",
    "RotateCredentials",
    "CreateBranch",
    "UpdateBranch",
    "DeleteBranch",
    "ResetBranch",
    "RestoreBranch",
    "SetDefaultBranch",
    "SwitchBinding",
    "RefreshBinding",
    "RetireVersion",
    // Takes none: under it gate.rs remembers what passed.
    gate::METHOD,
];

/// How long a request is remembered, in hours.
const REMEMBERED_HOURS: i64 = 24;
/// How many requests are remembered, in memory and in rows of some hundred bytes.
pub const REMEMBERED_MAX: usize = 100_000;

/// A request's id, and what it must not be used for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// Whose id it is, and of which method.
    pub key: RequestKey,
    /// The hash of the request without its id.
    pub body: Vec<u8>,
}

/// Why a request is not taken under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The id was used for another request.
    #[error("the request id {0} was used with another request")]
    Reused(uuid::Uuid),
    /// As many requests are remembered as there may be.
    #[error("{REMEMBERED_MAX} requests with ids are remembered already; leave the id out, or wait")]
    TooMany,
}

/// The name of what a request was about when it came before.
pub fn repeated<'a>(
    answered: Option<(&RequestId, &'a Answered)>,
    now: Timestamp,
) -> Result<Option<&'a str>, Error> {
    match answered {
        Some((_, answered)) if answered.expire_time <= now => Ok(None),
        Some((id, answered)) if answered.body != id.body => Err(Error::Reused(id.key.id)),
        Some((_, answered)) => Ok(Some(&answered.resource)),
        None => Ok(None),
    }
}

/// As [`repeated`], by what is true inside a change.
pub fn repeated_in<'a>(
    draft: &'a Draft<'_>,
    id: Option<&RequestId>,
    now: Timestamp,
) -> Result<Option<&'a str>, Error> {
    repeated(id.and_then(|id| Some((id, draft.request(&id.key)?))), now)
}

/// Remembers what a request is about.
pub fn remember(
    draft: &mut Draft<'_>,
    id: Option<&RequestId>,
    resource: String,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(RequestId { key, body }) = id else {
        return Ok(());
    };
    if draft.requests_count() >= REMEMBERED_MAX {
        return Err(Error::TooMany);
    }
    let end = now.checked_add(SignedDuration::from_hours(REMEMBERED_HOURS));
    let answered = Answered {
        body: body.clone(),
        resource,
        expire_time: end.unwrap_or(Timestamp::MAX),
    };
    draft.request_put(key.clone(), answered);
    Ok(())
}
