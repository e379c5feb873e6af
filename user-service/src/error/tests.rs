use super::*;
use diesel::result::DatabaseErrorInformation;
use tonic_types::StatusExt;

/// What Postgres says of a failed query, `message` and the constraint.
struct Said(&'static str, Option<&'static str>);

impl DatabaseErrorInformation for Said {
    fn message(&self) -> &str {
        self.0
    }
    fn details(&self) -> Option<&str> {
        None
    }
    fn hint(&self) -> Option<&str> {
        None
    }
    fn table_name(&self) -> Option<&str> {
        None
    }
    fn column_name(&self) -> Option<&str> {
        None
    }
    fn constraint_name(&self) -> Option<&str> {
        self.1
    }
    fn statement_position(&self) -> Option<i32> {
        None
    }
}

fn query_error(kind: DatabaseErrorKind, said: Said) -> QueryError {
    QueryError::DatabaseError(kind, Box::new(said))
}

fn lost(undone: bool) -> WorkError {
    let said = Said("terminating connection due to administrator command", None);
    let source = query_error(DatabaseErrorKind::Unknown, said);
    WorkError::Lost { undone, source }
}

fn timed_out() -> WorkError {
    let waited = Duration::from_secs(15);
    WorkError::TimedOut { waited }
}

fn no_connection() -> WorkError {
    WorkError::NoConnection(branch_pool::Error::Closed {
        target: branch_pool::Binding::new("users", "v1").into(),
    })
}

#[test]
fn outages_ask_to_try_again() {
    for (effect, error) in [
        (Effect::Read, lost(false)),
        (Effect::Repeatable, lost(false)),
        (Effect::Once, lost(true)),
        (Effect::Read, timed_out()),
        (Effect::Once, no_connection()),
    ] {
        let status = Status::from(Error::of_work("get a user", effect, error));
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().is_some());
        assert!(!status.message().contains("terminating"));
    }
}

#[test]
fn what_may_have_been_done_is_not_to_be_repeated_blindly() {
    for error in [lost(false), timed_out()] {
        let status = Status::from(Error::of_work("create a user", Effect::Once, error));
        assert_eq!(status.code(), Code::Unknown, "{status:?}");
        assert!(status.get_details_retry_info().is_none());
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "OUTCOME_UNKNOWN");
    }
}

#[test]
fn what_writes_over_whatever_is_there_may_be_asked_for_again() {
    for error in [lost(false), timed_out()] {
        let error = Error::of_work("update a user", Effect::Once, error).of_repeatable();
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().is_some());
    }
}

#[test]
fn a_right_that_is_missing_to_write_comes_back() {
    let answered = |effect| {
        let said = Said("permission denied for table users", None);
        let error = WorkError::Failed(query_error(DatabaseErrorKind::Unknown, said));
        let status = Status::from(Error::of_work("change a user", effect, error));
        (status.code(), status.get_details_retry_info().is_some())
    };
    for effect in [Effect::Repeatable, Effect::Once] {
        assert_eq!(answered(effect), (Code::Unavailable, true), "{effect:?}");
    }
    for effect in [Effect::Read, Effect::ReadPrimary] {
        assert_eq!(answered(effect), (Code::Internal, false), "{effect:?}");
    }
}

#[test]
fn other_failures_say_nothing_outside() {
    let secret = "relation \"users.users\" does not exist";
    let source = query_error(DatabaseErrorKind::Unknown, Said(secret, None));
    let status = Status::from(Error::of_work(
        "get a user",
        Effect::Read,
        WorkError::Failed(source),
    ));
    assert_eq!(status.code(), Code::Internal);
    assert!(!format!("{status:?}").contains("relation"), "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "INTERNAL");
}

#[test]
fn one_constraint_means_a_taken_address() {
    let failed = |constraint| {
        let said = Said("duplicate key value violates unique constraint", constraint);
        let source = query_error(DatabaseErrorKind::UniqueViolation, said);
        Error::of_work("create a user", Effect::Once, WorkError::Failed(source))
    };
    assert!(failed(Some("users_email_key")).is_email_taken());
    assert!(!failed(Some("users_pkey")).is_email_taken());
    assert!(!failed(None).is_email_taken());
    let status = Status::from(Error::EmailTaken {
        type_name: "users.v1.User",
        email: "alice@example.com".to_owned(),
    });
    assert_eq!(status.code(), Code::AlreadyExists);
    let bad = status.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "user.email");
}

#[test]
fn who_is_not_there_is_named() {
    let id = UserId::parse("id", 7).unwrap();
    let status = Status::from(Error::UserNotFound {
        type_name: "users.v2.User",
        field: "id",
        id,
    });
    assert_eq!(status.code(), Code::NotFound);
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!(resource.resource_type, "users.v2.User");
    assert_eq!(resource.resource_name, "7");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "USER_NOT_FOUND");
    assert_eq!(UserId::parse("id", 0).unwrap_err().field, "id");
}

#[test]
fn all_who_are_not_there_are_named_as_far_as_that_fits() {
    let missing = |count: i32| Error::UsersNotFound {
        type_name: "users.v2.User",
        missing: (1..=count)
            .map(|id| (id as usize * 2, UserId::of_row(id)))
            .collect(),
    };
    let status = Status::from(missing(2));
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "no user has the id 1 (and 1 more)");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "USER_NOT_FOUND");
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!(resource.resource_name, "1");
    let fields = |status: &Status| -> Vec<String> {
        let bad = status.get_details_bad_request().unwrap();
        let violations = bad.field_violations.into_iter();
        violations.map(|violation| violation.field).collect()
    };
    assert_eq!(fields(&status), ["ids[2]", "ids[4]"]);
    assert_eq!(fields(&missing(1_000).into()).len(), VIOLATIONS_MAX);
    assert_eq!(missing(1).to_string(), "no user has the id 1");
}

#[test]
fn who_came_too_late_or_takes_nothing_hears_why() {
    let id = UserId::of_row(3);
    let changed = Error::EtagMismatch {
        type_name: "users.v1.User",
        id,
    };
    let reused = Error::RequestIdReused {
        request_id: Uuid::nil(),
    };
    let stalled = Error::StalledStream {
        waited: Duration::from_secs(60),
    };
    for (error, code, reason) in [
        (changed, Code::Aborted, "ETAG_MISMATCH"),
        (reused, Code::InvalidArgument, "REQUEST_ID_REUSED"),
        (stalled, Code::DeadlineExceeded, "STREAM_STALLED"),
    ] {
        let message = error.to_string();
        let status = Status::from(error);
        assert_eq!((status.code(), status.message()), (code, &*message));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, reason);
        assert!(status.get_details_retry_info().is_none());
    }
}
