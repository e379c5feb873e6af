//! A branch that is to be made.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::{
    BranchCreateRequest, BranchCreateRequestEndpointOptions, EndpointType, InitSource,
};

use super::{BINDING, LEASE, MANAGED_BY, REQUEST};
use crate::names::{BindingName, BranchName, InvalidName, LeaseId};

/// A branch that is to be made, with a read-write endpoint and our annotation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewBranch {
    /// Its name.
    pub name: BranchName,
    /// Its parent; `None`: the project's default branch.
    pub parent: Option<BranchId>,
    /// Where on the parent; `None`: its present.
    pub point: Option<Point>,
    /// Whether it gets no data.
    pub schema_only: bool,
    /// Whether it is to be protected.
    pub protected: bool,
    /// When Neon deletes it.
    pub expires_at: Option<Timestamp>,
    /// Whether it gets a read-only endpoint as well.
    pub read_only_endpoint: bool,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a branch is made for: its annotation says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A binding of broker.toml.
    Binding(BindingName),
    /// A request; this stands for all that it asked for.
    Request(String),
    /// A lease, which it goes with.
    Lease(LeaseId),
}

/// A point of a branch's past.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Point {
    /// A place in its log.
    Lsn(Lsn),
    /// A time.
    Time(Timestamp),
}

/// A place in a branch's log, as Postgres writes it: `0/1A2B3C8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl FromStr for Lsn {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let half = |text: &str| {
            let is_hex =
                (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((half(high)?, half(low)?)))
            .map(|(high, low)| Lsn(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| {
                InvalidName::new("LSN", text, "two hexadecimal numbers, as in 0/1A2B3C8")
            })
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl NewBranch {
    /// For a binding: a child of that branch, as it is now.
    pub fn for_binding(
        name: BranchName,
        parent: Option<BranchId>,
        binding: BindingName,
    ) -> NewBranch {
        NewBranch {
            name,
            parent,
            point: None,
            schema_only: false,
            protected: false,
            expires_at: None,
            read_only_endpoint: false,
            purpose: Purpose::Binding(binding),
        }
    }

    /// For a lease: a child of that branch.
    pub fn for_lease(
        name: BranchName,
        parent: BranchId,
        point: Option<Point>,
        expires_at: Timestamp,
        lease: LeaseId,
    ) -> NewBranch {
        NewBranch {
            name,
            parent: Some(parent),
            point,
            schema_only: false,
            protected: false,
            expires_at: Some(expires_at),
            read_only_endpoint: false,
            purpose: Purpose::Lease(lease),
        }
    }

    /// What its annotation says of the request or the lease that it is made for.
    pub(crate) fn note(&self) -> Option<String> {
        match &self.purpose {
            Purpose::Binding(_) => None,
            Purpose::Request(request) => Some(request.clone()),
            Purpose::Lease(lease) => Some(lease.to_string()),
        }
    }

    /// The binding that it is made for.
    pub(super) fn binding(&self) -> Option<&BindingName> {
        match &self.purpose {
            Purpose::Binding(binding) => Some(binding),
            Purpose::Request(_) | Purpose::Lease(_) => None,
        }
    }

    pub(super) fn request(&self) -> BranchCreateRequest {
        let note = match &self.purpose {
            Purpose::Binding(binding) => (BINDING, binding.to_string()),
            Purpose::Request(request) => (REQUEST, request.clone()),
            Purpose::Lease(lease) => (LEASE, lease.to_string()),
        };
        let (key, value) = MANAGED_BY;
        let mut request = BranchCreateRequest::named(self.name.as_str())
            .read_write_endpoint()
            .annotation([(key.to_owned(), value.to_owned())])
            .annotation([note]);
        if self.read_only_endpoint {
            let options = BranchCreateRequestEndpointOptions::new(EndpointType::ReadOnly);
            request = request.endpoint(options);
        }
        if let Some(parent) = &self.parent {
            request = request.parent(parent.clone());
        }
        request = match &self.point {
            None => request,
            Some(Point::Lsn(lsn)) => request.at_lsn(lsn.to_string()),
            Some(Point::Time(time)) => request.at_timestamp(*time),
        };
        if self.schema_only {
            request = request.init_source(InitSource::SchemaOnly);
        }
        if self.protected {
            request = request.protected();
        }
        match self.expires_at {
            None => request,
            Some(time) => request.expires_at(time),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_two_hexadecimal_numbers() {
        for text in ["0/1A2B3C8", "FFFFFFFF/FFFFFFFF", "0/0"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("0/00ab".parse::<Lsn>().unwrap().to_string(), "0/AB");
        for text in [
            "",
            "0",
            "/",
            "0/",
            "/0",
            "0/+1",
            "0/1/2",
            "0/123456789",
            "x/1",
            " 0/1",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
