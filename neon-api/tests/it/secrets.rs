//! Nothing that holds a secret prints it.

use std::fmt::Debug;

use neon_api::Secret;
use neon_api::types::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::samples;

/// Expects a `T` read from `sample` to print no password, in either style.
fn assert_redacted<T: Debug + DeserializeOwned>(sample: Value) {
    assert!(sample.to_string().contains(samples::PASSWORD));
    let value: T = serde_json::from_value(sample).unwrap();
    for printed in [format!("{value:?}"), format!("{value:#?}")] {
        assert!(!printed.contains(samples::PASSWORD), "{printed}");
        assert!(printed.contains("[redacted]"), "{printed}");
    }
}

#[test]
fn answers_print_none() {
    let operations = json!([]);
    assert_redacted::<CreatedBranch>(samples::created_branch());
    assert_redacted::<CreatedProject>(samples::created_project());
    assert_redacted::<ConnectionDetails>(samples::connection());
    assert_redacted::<ConnectionUriResponse>(json!({"uri": samples::uri()}));
    assert_redacted::<RolePasswordResponse>(json!({"password": samples::PASSWORD}));
    assert_redacted::<RoleResponse>(json!({"role": samples::role()}));
    assert_redacted::<RolesResponse>(json!({"roles": [samples::role()]}));
    assert_redacted::<RoleOperations>(json!({"role": samples::role(), "operations": operations}));
}

#[test]
fn a_secret_is_written_only_where_it_is_asked_for() {
    let secret = Secret::from("hunter2");
    assert_eq!(format!("{secret:?}"), "[redacted]");
    assert_eq!(secret.expose(), "hunter2");
    assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hunter2\"");
    assert_eq!(secret, secret.clone());
    assert_ne!(secret, Secret::from("hunter3"));
}
