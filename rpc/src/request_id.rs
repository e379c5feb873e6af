//! Ids of requests (AIP-155): a caller that did not hear the answer asks again under
//! the same id, and nothing is done twice.

use tonic::Code;
use uuid::Uuid;

use crate::status::{FieldViolation, Refusal};

/// The field that such an id comes in.
const FIELD: &str = "request_id";

/// The id that a request has; none when it has none.
///
/// # Errors
/// A violation of the field `request_id` when it is no UUID.
pub fn parse(text: &str) -> Result<Option<Uuid>, FieldViolation> {
    match text {
        "" => Ok(None),
        text => Uuid::try_parse(text)
            .map(Some)
            .map_err(|_| FieldViolation::new(FIELD, "must be a UUID")),
    }
}

/// INVALID_ARGUMENT for an id that was used with another request.
pub fn reused(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, "REQUEST_ID_REUSED", message).violation(
        FieldViolation::new(FIELD, "was used with another request; make a new one"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_or_left_out() {
        let id = "6b8b4567-327b-43c6-a43c-986966334873";
        assert_eq!(parse(""), Ok(None));
        let parsed = parse(id).map(|id| id.map(|id| id.to_string()));
        assert_eq!(parsed, Ok(Some(id.to_owned())));
        assert_eq!(parse(&id.to_uppercase()), parse(id), "written otherwise");
        for refused in [
            "x",
            " ",
            "6b8b4567",
            &format!("{id}0"),
            &id.replace('-', "_"),
        ] {
            let field = parse(refused).map_err(|violation| violation.field);
            assert_eq!(field, Err(FIELD.to_owned()), "{refused:?}");
        }
    }
}
