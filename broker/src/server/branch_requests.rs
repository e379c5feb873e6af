//! What arrives at BranchService, decoded.

use jiff::{SignedDuration, Timestamp};
use neon_api::BranchId;
use neon_api::types::Change;
use prost::Message as _;
use proto::broker::v1 as pb;
use proto::broker::v1::compare_schemas_request::{BasePoint, Point as ComparePoint};
use proto::broker::v1::create_branch_request::Point as CreatePoint;
use proto::broker::v1::get_schema_request::Point as SchemaPoint;
use proto::broker::v1::restore_branch_request::Point as RestorePoint;
use rpc::status::{FieldViolation, FieldViolations};

use super::Error;
use super::request::name;
use crate::branches::{Restore, SchemaOf, Source, Update, Which};
use crate::names::{BranchName, BranchResource, InvalidName};
use crate::neon::{Lsn, NewBranch, Point, Purpose};

/// Neon's own limit.
const EXPIRY_DAYS_MAX: i64 = 30;
/// The longest name of a database, in bytes, as Postgres takes it.
const DATABASE_BYTES_MAX: usize = 63;

/// CreateBranch.
pub(super) fn create(
    request: &pb::CreateBranchRequest,
    now: Timestamp,
) -> Result<NewBranch, Error> {
    let mut violations = FieldViolations::new();
    let branch = request.branch.clone().unwrap_or_default();
    let known = pb::Branch {
        display_name: branch.display_name.clone(),
        parent: branch.parent.clone(),
        expire_time: branch.expire_time,
        protected: branch.protected,
        ..Default::default()
    };
    violations.check(
        branch == known,
        "branch",
        "must have display_name, parent, expire_time and protected alone",
    );
    let display_name = violations.take(branch_name("branch.display_name", &branch.display_name));
    let parent = match branch.parent.as_str() {
        "" => None,
        parent => violations.take(name::<BranchResource>("branch.parent", parent)),
    };
    let expires_at = branch.expire_time;
    let expires_at = expires_at.and_then(|time| violations.take(expiry(time, now)));
    violations.check(
        !(branch.protected && branch.expire_time.is_some()),
        "branch.protected",
        "must be left out for a branch that expires: Neon has no such branch",
    );
    let point = match &request.point {
        None => None,
        Some(CreatePoint::Lsn(text)) => violations.take(lsn("lsn", text)),
        Some(CreatePoint::Time(at)) => violations.take(moment("time", *at)),
    };
    violations.check(
        !(request.schema_only && request.point.is_some()),
        "schema_only",
        "must be left out with a point: a branch without data is of the parent's present",
    );
    match display_name {
        Some(display_name) if violations.is_empty() => Ok(NewBranch {
            name: display_name,
            parent: parent.map(|parent| parent.0),
            point,
            schema_only: request.schema_only,
            protected: branch.protected,
            expires_at,
            read_only_endpoint: request.read_only_endpoint,
            purpose: Purpose::request(&without_id(request)),
        }),
        _ => Err(violations.into()),
    }
}

/// UpdateBranch.
pub(super) fn update(request: pb::UpdateBranchRequest, now: Timestamp) -> Result<Update, Error> {
    let mut violations = FieldViolations::new();
    let branch = request.branch.unwrap_or_default();
    let id = violations.take(name::<BranchResource>("branch.name", &branch.name));
    let paths = request.update_mask.unwrap_or_default().paths;
    let all = ["display_name", "protected", "expire_time"];
    for path in &paths {
        violations.check(
            path == "*" || all.contains(&path.as_str()),
            "update_mask",
            "may name display_name, protected and expire_time, or be *",
        );
    }
    let masked = |field: &str, is_set: bool| match paths.is_empty() {
        true => is_set,
        false => paths.iter().any(|path| path == "*" || path == field),
    };
    let display_name = match masked("display_name", !branch.display_name.is_empty()) {
        true => violations.take(branch_name("branch.display_name", &branch.display_name)),
        false => None,
    };
    let protected = masked("protected", branch.protected).then_some(branch.protected);
    let expires_at = match (
        masked("expire_time", branch.expire_time.is_some()),
        branch.expire_time,
    ) {
        (false, _) => Change::Keep,
        (true, None) => Change::Clear,
        (true, Some(time)) => violations
            .take(expiry(time, now))
            .map_or(Change::Keep, Change::Set),
    };
    violations.check(
        !(protected == Some(true) && matches!(expires_at, Change::Set(_))),
        "branch.protected",
        "must be left out for a branch that expires: Neon has no such branch",
    );
    match id {
        Some(id) if violations.is_empty() => Ok(Update {
            which: which(id, branch.etag),
            name: display_name,
            protected,
            expires_at,
        }),
        _ => Err(violations.into()),
    }
}

/// DeleteBranch.
pub(super) fn delete(request: pb::DeleteBranchRequest) -> Result<Which, Error> {
    Ok(which(name("name", &request.name)?, request.etag))
}

/// ResetBranch.
pub(super) fn reset(request: pb::ResetBranchRequest) -> Result<Restore, Error> {
    let mut violations = FieldViolations::new();
    let id = violations.take(name("name", &request.name));
    let preserve = violations.take(preserve(&request.preserve_under_name));
    match (id, preserve) {
        (Some(id), Some(preserve)) => Ok(Restore {
            which: which(id, request.etag),
            source: Source::Parent,
            point: None,
            preserve,
        }),
        _ => Err(violations.into()),
    }
}

/// RestoreBranch.
pub(super) fn restore(request: pb::RestoreBranchRequest) -> Result<Restore, Error> {
    let mut violations = FieldViolations::new();
    let id = violations.take(name::<BranchResource>("name", &request.name));
    let source = match request.source.as_str() {
        "" => Some(Source::Itself),
        own if own == request.name => Some(Source::Itself),
        other => violations
            .take(name::<BranchResource>("source", other))
            .map(|other| Source::Branch(other.0)),
    };
    let point = match &request.point {
        None => None,
        Some(RestorePoint::Lsn(text)) => violations.take(lsn("lsn", text)),
        Some(RestorePoint::Time(at)) => violations.take(moment("time", *at)),
    };
    let preserve = violations.take(preserve(&request.preserve_under_name));
    if source == Some(Source::Itself) {
        violations.check(
            request.point.is_some(),
            "time",
            "must be given, or lsn: a branch cannot be restored to its own present",
        );
        violations.check(
            !request.preserve_under_name.is_empty(),
            "preserve_under_name",
            "must be given: Neon restores a branch to its own past only when the old data are kept",
        );
    }
    match (id, source, preserve) {
        (Some(id), Some(source), Some(preserve)) if violations.is_empty() => Ok(Restore {
            which: which(id, request.etag),
            source,
            point,
            preserve,
        }),
        _ => Err(violations.into()),
    }
}

/// GetSchema: which branch, when, and the database.
pub(super) fn schema(
    request: pb::GetSchemaRequest,
) -> Result<(BranchId, Option<Point>, String), Error> {
    let mut violations = FieldViolations::new();
    let id = violations.take(name::<BranchResource>("name", &request.name));
    let database = violations.take(database(request.database));
    let point = match &request.point {
        None => None,
        Some(SchemaPoint::Lsn(text)) => violations.take(lsn("lsn", text)),
        Some(SchemaPoint::Time(at)) => violations.take(moment("time", *at)),
    };
    match (id, database) {
        (Some(id), Some(database)) if violations.is_empty() => Ok((id.0, point, database)),
        _ => Err(violations.into()),
    }
}

/// CompareSchemas, decoded.
pub(super) struct Compare {
    pub(super) id: BranchId,
    pub(super) point: Option<Point>,
    pub(super) base: SchemaOf,
    pub(super) database: String,
}

/// CompareSchemas.
pub(super) fn compare(request: pb::CompareSchemasRequest) -> Result<Compare, Error> {
    let mut violations = FieldViolations::new();
    let id = violations.take(name::<BranchResource>("name", &request.name));
    let branch = match request.base.as_str() {
        "" => None,
        base => violations.take(name::<BranchResource>("base", base)),
    };
    let database = violations.take(database(request.database));
    let point = match &request.point {
        None => None,
        Some(ComparePoint::Lsn(text)) => violations.take(lsn("lsn", text)),
        Some(ComparePoint::Time(at)) => violations.take(moment("time", *at)),
    };
    let base_point = match &request.base_point {
        None => None,
        Some(BasePoint::BaseLsn(text)) => violations.take(lsn("base_lsn", text)),
        Some(BasePoint::BaseTime(at)) => violations.take(moment("base_time", *at)),
    };
    match (id, database) {
        (Some(id), Some(database)) if violations.is_empty() => Ok(Compare {
            id: id.0,
            point,
            base: SchemaOf {
                branch: branch.map(|branch| branch.0),
                point: base_point,
            },
            database,
        }),
        _ => Err(violations.into()),
    }
}

/// What is asked for, whatever the id of the request.
fn without_id(request: &pb::CreateBranchRequest) -> Vec<u8> {
    let mut request = request.clone();
    request.request_id.clear();
    request.encode_to_vec()
}

fn which(branch: BranchResource, etag: String) -> Which {
    Which {
        id: branch.0,
        etag: Some(etag).filter(|etag| !etag.is_empty()),
    }
}

fn branch_name(field: &'static str, text: &str) -> Result<BranchName, FieldViolation> {
    text.parse().map_err(|error: InvalidName| {
        FieldViolation::new(field, format!("must be {}", error.expected))
    })
}

fn preserve(text: &str) -> Result<Option<BranchName>, FieldViolation> {
    match text {
        "" => Ok(None),
        text => branch_name("preserve_under_name", text).map(Some),
    }
}

fn database(text: String) -> Result<String, FieldViolation> {
    let fits = (1..=DATABASE_BYTES_MAX).contains(&text.len()) && !text.contains('\0');
    match fits {
        true => Ok(text),
        false => Err(FieldViolation::new(
            "database",
            format!("must be the name of a database, 1 to {DATABASE_BYTES_MAX} bytes"),
        )),
    }
}

pub(super) fn lsn(field: &'static str, text: &str) -> Result<Point, FieldViolation> {
    let lsn: Result<Lsn, _> = text.parse();
    lsn.map(Point::Lsn)
        .map_err(|error| FieldViolation::new(field, format!("must be {}", error.expected)))
}

pub(super) fn moment(
    field: &'static str,
    time: prost_types::Timestamp,
) -> Result<Point, FieldViolation> {
    timestamp(field, time).map(Point::Time)
}

fn expiry(time: prost_types::Timestamp, now: Timestamp) -> Result<Timestamp, FieldViolation> {
    let field = "branch.expire_time";
    let time = timestamp(field, time)?;
    let left = time.duration_since(now);
    let most = SignedDuration::from_hours(EXPIRY_DAYS_MAX * 24);
    match left.is_positive() && left <= most {
        true => Ok(time),
        false => Err(FieldViolation::new(
            field,
            format!("must be in the future, at most {EXPIRY_DAYS_MAX} days ahead"),
        )),
    }
}

fn timestamp(
    field: &'static str,
    time: prost_types::Timestamp,
) -> Result<Timestamp, FieldViolation> {
    let is_whole = (0..1_000_000_000).contains(&time.nanos);
    let time = Timestamp::new(time.seconds, time.nanos).ok();
    time.filter(|_| is_whole)
        .ok_or_else(|| FieldViolation::new(field, "must be a time of the years 1 to 9999"))
}
