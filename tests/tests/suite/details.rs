//! What an error's details say.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Fails unless the call was refused with this code, a reason, and, where a
/// field is given, a violation that names it.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    field: Option<&str>,
) -> Status {
    let status = match result {
        Err(status) => status,
        Ok(answer) => panic!("{code:?} {field:?}, not {answer:?}"),
    };
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info();
    assert!(
        info.as_ref().is_some_and(|info| !info.reason.is_empty()),
        "ErrorInfo with a reason: {status:?}"
    );
    if let Some(field) = field {
        let violations = status
            .get_details_bad_request()
            .map(|request| request.field_violations)
            .unwrap_or_default();
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert!(fields.contains(&field), "{field}: {status:?}: {fields:?}");
    }
    status
}
