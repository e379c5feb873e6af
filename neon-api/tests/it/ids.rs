//! Identifiers check themselves.

use neon_api::{BranchId, EndpointId, IdProblem, OperationId, ProjectId};

#[test]
fn good_ones_come_back_as_they_were() {
    for text in ["late-frost-12345678", "a", &"x".repeat(60)] {
        let id: ProjectId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("{text:?}"));
        let read: ProjectId = serde_json::from_str(&format!("{text:?}")).unwrap();
        assert_eq!(read, id);
    }
}

#[test]
fn bad_ones_say_what_is_wrong() {
    let complaint = |text: &str| text.parse::<BranchId>().unwrap_err().to_string();
    assert_eq!(complaint(""), "branch id is empty");
    assert_eq!(
        complaint("br-Small"),
        "branch id \"br-Small\" has the character 'S', only a-z, 0-9 and - are allowed"
    );
    assert_eq!(
        complaint("../projects"),
        "branch id \"../projects\" has the character '.', only a-z, 0-9 and - are allowed"
    );
    assert_eq!(
        complaint(&"x".repeat(61)),
        format!(
            "branch id {:?} has 61 characters, at most 60 are allowed",
            "x".repeat(61)
        )
    );
    let long = "é".repeat(1_000).parse::<EndpointId>().unwrap_err();
    assert_eq!(long.problem, IdProblem::BadCharacter('é'));
    assert!(long.to_string().len() < 300, "{long}");
    serde_json::from_str::<EndpointId>("\"no spaces\"").unwrap_err();
}

#[test]
fn operations_are_uuids() {
    let text = "a07f8772-1877-4da9-a939-3a3ae62d1d8d";
    let id: OperationId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    let complaint = "a07f".parse::<OperationId>().unwrap_err().to_string();
    assert_eq!(complaint, "operation id \"a07f\" is not a UUID");
}
