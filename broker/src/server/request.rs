//! What arrives, decoded.

use std::str::FromStr;
use std::time::Duration;

use neon_api::BranchId;
use prost::Message;
use proto::broker::v1 as pb;
use proto::broker::v1::acquire_lease_request::Target;
use proto::broker::v1::ephemeral_branch::Point as EphemeralPoint;
use proto::broker::v1::revoke_leases_request::Which as RevokeWhich;
use rpc::caller::Caller;
use rpc::page::{self, PageTokens};
use rpc::request_id;
use rpc::status::{FieldViolation, FieldViolations};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::branch_requests::{lsn, moment};
use crate::leases::Which;
use crate::names::{BindingName, BranchResource, InvalidName, LeaseId, ServiceName};
use crate::neon::Point;
use crate::request_ids::RequestId;
use crate::roles::Access;
use crate::state::RequestKey;

/// The longest name that a holder may give itself, in characters.
const HOLDER_CHARS_MAX: usize = 200;

/// A page of a list that is sorted by a key.
pub(super) struct Page<K> {
    list: &'static str,
    /// What the list is narrowed and sorted by: a token is for one of them.
    filter: String,
    size: usize,
    /// The key of the last item of the page before.
    after: Option<K>,
}

impl<K: Ord + Serialize + DeserializeOwned> Page<K> {
    /// Decodes page_size and page_token of that list.
    pub(super) fn of(
        tokens: &PageTokens,
        list: &'static str,
        filter: String,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page<K>, Error> {
        let mut violations = FieldViolations::new();
        let size = violations.take(page::page_size(page_size));
        let after = violations.take(tokens.decode(list, &filter, page_token));
        violations.into_result()?;
        // Signed by us, so it is a key again, unless another broker's are others.
        let key = |cursor: Vec<u8>| {
            serde_json::from_slice(&cursor)
                .map_err(|_| FieldViolation::new("page_token", "is of another broker"))
        };
        Ok(Page {
            list,
            filter,
            size: size.unwrap_or(page::PAGE_SIZE_DEFAULT),
            after: after.flatten().map(key).transpose()?,
        })
    }

    /// This page of the sorted items, and the token of the next.
    pub(super) fn cut<T>(
        &self,
        tokens: &PageTokens,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
    ) -> (Vec<T>, String) {
        let mut rest = items
            .into_iter()
            .filter(|item| self.after.as_ref().is_none_or(|after| key(item) > *after));
        let page: Vec<T> = rest.by_ref().take(self.size).collect();
        let token = match (page.last(), rest.next()) {
            (Some(last), Some(_)) => match serde_json::to_vec(&key(last)) {
                Ok(cursor) => tokens.encode(self.list, &self.filter, cursor),
                // Keys are texts and times.
                Err(_) => String::new(),
            },
            _ => String::new(),
        };
        (page, token)
    }
}

/// A resource name in that field.
pub(super) fn name<T>(field: &'static str, text: &str) -> Result<T, FieldViolation>
where
    T: FromStr<Err = InvalidName>,
{
    text.parse().map_err(|error: InvalidName| {
        let expected = error.expected;
        FieldViolation::new(field, format!("must be {expected}"))
    })
}

/// A lease's ttl, in the field `ttl`.
pub(super) fn ttl(ttl: Option<prost_types::Duration>) -> Result<Option<Duration>, FieldViolation> {
    let Some(ttl) = ttl else { return Ok(None) };
    Duration::try_from(ttl)
        .ok()
        .filter(|ttl| !ttl.is_zero())
        .map(Some)
        .ok_or_else(|| FieldViolation::new("ttl", "must be positive; leave it out for the default"))
}

/// What AcquireLease asks for.
pub(super) struct Acquire {
    pub(super) target: Wished,
    pub(super) service: Option<ServiceName>,
    pub(super) access: Access,
    pub(super) pooled: bool,
    pub(super) holder: String,
    pub(super) ttl: Option<Duration>,
}

/// What a lease is to be on, as it was named.
pub(super) enum Wished {
    /// A binding.
    Binding(BindingName),
    /// A branch.
    Branch(BranchId),
    /// A branch of its own.
    Ephemeral {
        /// Forked from what.
        parent: Parent,
        /// Where on it; none: its present.
        point: Option<Point>,
        /// Whether the service's newest revisions are to be run on it.
        migrate: bool,
    },
}

/// What an ephemeral branch is to be forked from.
pub(super) enum Parent {
    /// A branch.
    Branch(BranchId),
    /// What a binding leads to.
    Binding(BindingName),
}

/// Decodes AcquireLease.
pub(super) fn acquire(request: pb::AcquireLeaseRequest) -> Result<Acquire, Error> {
    let mut violations = FieldViolations::new();
    let target = match &request.target {
        Some(Target::Binding(binding)) => {
            let binding = violations.take(name("binding", binding));
            binding.map(Wished::Binding)
        }
        Some(Target::Branch(branch)) => {
            let branch = violations.take(name::<BranchResource>("branch", branch));
            branch.map(|branch| Wished::Branch(branch.0))
        }
        Some(Target::Ephemeral(ephemeral)) => wished(ephemeral, &mut violations),
        None => {
            let message = "must say what the lease is for: services/{service}/versions/{version}; \
                           or give branch or ephemeral";
            violations.add(FieldViolation::new("binding", message));
            None
        }
    };
    let service = match request.service.as_str() {
        "" => None,
        text => violations.take(service("service", text)),
    };
    if let (Some(given), Some(of)) = (&service, target.as_ref().and_then(Wished::service)) {
        violations.check(given == of, "service", "must be the binding's, or left out");
    }
    let access = violations.take(access(request.access));
    violations.check(
        access != Some(Access::Ddl) || matches!(target, Some(Wished::Ephemeral { .. })),
        "access",
        "must not be ACCESS_DDL but on an ephemeral branch",
    );
    let ttl = violations.take(ttl(request.ttl));
    violations.take(request_id::parse(&request.request_id));
    violations.check(
        is_line(&request.holder, HOLDER_CHARS_MAX),
        "holder",
        format!("must be at most {HOLDER_CHARS_MAX} characters, no control characters"),
    );
    match (target, access, ttl) {
        (Some(target), Some(access), Some(ttl)) if violations.is_empty() => Ok(Acquire {
            target,
            service,
            access,
            pooled: request.pooled,
            holder: request.holder,
            ttl,
        }),
        _ => Err(violations.into()),
    }
}

fn wished(ephemeral: &pb::EphemeralBranch, violations: &mut FieldViolations) -> Option<Wished> {
    const FIELD: &str = "ephemeral.parent";
    let parent = match ephemeral.parent.starts_with("branches/") {
        true => {
            name::<BranchResource>(FIELD, &ephemeral.parent).map(|branch| Parent::Branch(branch.0))
        }
        false => name::<BindingName>(FIELD, &ephemeral.parent).map(Parent::Binding),
    };
    let parent = violations.take(parent.map_err(|_| {
        let message = "must be branches/{branch id} or services/{service}/versions/{version}";
        FieldViolation::new(FIELD, message)
    }));
    let point = match &ephemeral.point {
        None => None,
        Some(EphemeralPoint::Lsn(text)) => violations.take(lsn("ephemeral.lsn", text)),
        Some(EphemeralPoint::Time(at)) => violations.take(moment("ephemeral.time", *at)),
    };
    parent.map(|parent| Wished::Ephemeral {
        parent,
        point,
        migrate: ephemeral.migrate,
    })
}

impl Wished {
    /// The service that it says by itself.
    pub(super) fn service(&self) -> Option<&ServiceName> {
        match self {
            Wished::Binding(binding)
            | Wished::Ephemeral {
                parent: Parent::Binding(binding),
                ..
            } => Some(&binding.service),
            Wished::Branch(_) | Wished::Ephemeral { .. } => None,
        }
    }
}

/// Decodes RevokeLeases. `by`: who calls.
pub(super) fn revoke(
    request: &pb::RevokeLeasesRequest,
    by: &Caller,
) -> Result<(Which, String), Error> {
    let mut violations = FieldViolations::new();
    let which = match &request.which {
        Some(RevokeWhich::Lease(lease)) => violations.take(name("lease", lease)).map(Which::Lease),
        Some(RevokeWhich::Branch(branch)) => {
            let branch = violations.take(name::<BranchResource>("branch", branch));
            branch.map(|branch| Which::Branch(branch.0))
        }
        Some(RevokeWhich::Service(text)) => violations
            .take(service("service", text))
            .map(Which::Service),
        None => {
            let message = "must name a lease, unless branch or service says which";
            violations.add(FieldViolation::new("lease", message));
            None
        }
    };
    violations.take(request_id::parse(&request.request_id));
    violations.check(
        is_line(&request.reason, HOLDER_CHARS_MAX),
        "reason",
        format!("must be at most {HOLDER_CHARS_MAX} characters, no control characters"),
    );
    match which {
        Some(which) if violations.is_empty() => {
            let reason = match request.reason.as_str() {
                "" => format!("by {by}"),
                reason => format!("by {by}: {reason}"),
            };
            Ok((which, reason))
        }
        _ => Err(violations.into()),
    }
}

/// A service's resource name: services/{service}.
fn service(field: &'static str, text: &str) -> Result<ServiceName, FieldViolation> {
    let name = text.strip_prefix("services/");
    name.and_then(|name| name.parse().ok())
        .ok_or_else(|| FieldViolation::new(field, "must be services/{service}"))
}

fn is_line(text: &str, chars_max: usize) -> bool {
    text.chars().count() <= chars_max && !text.chars().any(char::is_control)
}

/// What WatchBinding's first request names.
pub(super) enum Watched {
    /// A binding: to observe.
    Binding(BindingName),
    /// A lease: to follow its connection.
    Lease(LeaseId),
}

/// Decodes a WatchBinding request.
pub(super) fn watched(request: &pb::WatchBindingRequest) -> Result<Watched, Error> {
    let watched = match (request.binding.as_str(), request.lease.as_str()) {
        ("", "") => Err(FieldViolation::new(
            "binding",
            "must name what to watch, unless lease does",
        )),
        (binding, "") => name("binding", binding).map(Watched::Binding),
        ("", lease) => name("lease", lease).map(Watched::Lease),
        _ => Err(FieldViolation::new(
            "lease",
            "must be empty when binding is given",
        )),
    };
    Ok(watched?)
}

/// A request that may come again, under an id that its caller made.
pub(super) trait Repeatable: Message + Clone {
    /// Its method.
    const METHOD: &'static str;

    /// Its field `request_id`.
    fn request_id(&mut self) -> &mut String;
}

macro_rules! repeatable {
    ($($request:ident, $method:literal;)+) => {
        $(
            impl Repeatable for pb::$request {
                const METHOD: &'static str = $method;

                fn request_id(&mut self) -> &mut String {
                    &mut self.request_id
                }
            }
        )+
    };
}

repeatable! {
    AcquireLeaseRequest, "AcquireLease";
    RenewLeaseRequest, "RenewLease";
    ReleaseLeaseRequest, "ReleaseLease";
    RevokeLeasesRequest, "RevokeLeases";
    RotateCredentialsRequest, "RotateCredentials";
    SwitchBindingRequest, "SwitchBinding";
    RefreshBindingRequest, "RefreshBinding";
    RetireVersionRequest, "RetireVersion";
    CreateBranchRequest, "CreateBranch";
    UpdateBranchRequest, "UpdateBranch";
    DeleteBranchRequest, "DeleteBranch";
    ResetBranchRequest, "ResetBranch";
    RestoreBranchRequest, "RestoreBranch";
    SetDefaultBranchRequest, "SetDefaultBranch";
}

/// The id of that caller's request, if it has one, and what it is the id of.
pub(super) fn id<R: Repeatable>(
    request: &R,
    caller: &Caller,
) -> Result<Option<RequestId>, FieldViolation> {
    let mut body = request.clone();
    let text = std::mem::take(body.request_id());
    let key = |id| RequestKey {
        caller: caller.name().unwrap_or_default().to_owned(),
        method: R::METHOD,
        id,
    };
    Ok(request_id::parse(&text)?.map(|id| RequestId {
        key: key(id),
        body: Sha256::digest(body.encode_to_vec()).to_vec(),
    }))
}

fn access(access: i32) -> Result<Access, FieldViolation> {
    match pb::Access::try_from(access) {
        Ok(pb::Access::Unspecified | pb::Access::ReadWrite) => Ok(Access::ReadWrite),
        Ok(pb::Access::ReadOnly) => Ok(Access::ReadOnly),
        Ok(pb::Access::Ddl) => Ok(Access::Ddl),
        Err(_) => Err(FieldViolation::new("access", "must be one of Access")),
    }
}
