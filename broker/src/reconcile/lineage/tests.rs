#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::json;

use super::*;
use crate::config::Config;

/// v1 from the default branch, v2 from v1's: the users of broker.toml, alone.
fn declared() -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker.toml");
    let mut config = Config::load(&path).unwrap();
    let is_users = |name: String| name.starts_with("services/users/");
    config
        .bindings
        .retain(|spec| is_users(spec.name.to_string()));
    config
}

fn found(name: &str, parent: Option<&str>, made: &str, reset: Option<&str>) -> Found {
    let id = |name: &str| format!("br-{}", name.replace('_', "-"));
    let branch = json!({
        "id": id(name), "project_id": "late-frost-12345678", "name": name,
        "parent_id": parent.map(id), "current_state": "ready",
        "state_changed_at": made, "creation_source": "api",
        "default": name == "main", "protected": false,
        "compute_time_seconds": 0, "active_time_seconds": 0,
        "written_data_bytes": 0, "data_transfer_bytes": 0,
        "created_at": made, "updated_at": made, "last_reset_at": reset,
    });
    Found {
        branch: serde_json::from_value(branch).unwrap(),
        managed: name.starts_with("api_"),
        binding: None,
        request: None,
    }
}

fn remarks(all: &[Found]) -> Vec<String> {
    remarks_told(all, |_| None)
}

fn remarks_told(all: &[Found], told: impl Fn(&BranchId) -> Option<bool>) -> Vec<String> {
    let config = declared();
    let remarks = config.bindings.iter();
    let remarks = remarks.filter_map(|spec| remark(spec, all.iter(), &told));
    remarks.map(|remark| remark.text).collect()
}

const MADE: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-02T00:00:00Z";

#[test]
fn what_is_as_declared_is_not_remarked_upon() {
    let main = found("main", None, MADE, None);
    assert_eq!(remarks(std::slice::from_ref(&main)), [""; 0]);
    let v1 = found("api_v1_branch", Some("main"), MADE, None);
    let v2 = found("api_v2_branch", Some("api_v1_branch"), MADE, None);
    assert_eq!(remarks(&[main, v1, v2]), [""; 0]);
}

#[test]
fn what_a_restore_kept_is_history() {
    let main = found("main", None, MADE, None);
    let kept = found("before", Some("main"), LATER, None);
    let v1 = found("api_v1_branch", Some("before"), MADE, Some(LATER));
    let v2 = found("api_v2_branch", Some("before"), MADE, None);
    let remarks = remarks(&[main, kept, v1, v2]);
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].starts_with("api_v1_branch is a child of before, which is history of main"));
    assert!(remarks[1].contains("before, which is history of api_v1_branch"));
}

#[test]
fn another_parent_is_drift() {
    let main = found("main", None, MADE, None);
    let v1 = found("api_v1_branch", Some("main"), MADE, Some(LATER));
    let v2 = found("api_v2_branch", Some("main"), MADE, None);
    let remarks = remarks(&[main, v1, v2]);
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(
        remarks[0].contains("not a child of api_v1_branch"),
        "{remarks:?}"
    );
}

#[test]
fn the_ledger_knows_better_than_what_it_looks_like() {
    // Made within one second, in an order that does not show.
    let main = found("main", None, MADE, None);
    let older = found("before", Some("main"), MADE, None);
    let v1 = found("api_v1_branch", Some("before"), LATER, None);
    let v2 = found("api_v2_branch", Some("before"), LATER, None);
    let all = [main, older, v1, v2];
    let is_before = |id: &BranchId| id.as_str() == "br-before";
    let drift = remarks(&all);
    assert_eq!(drift.len(), 1, "{drift:?}");
    let history = remarks_told(&all, |id| is_before(id).then_some(true));
    assert_eq!(history.len(), 2, "{history:?}");
    assert!(history[1].contains("before, which is history of api_v1_branch"));

    // What looks like it, and is a branch that a caller made.
    let main = found("main", None, MADE, None);
    let kept = found("before", Some("main"), LATER, None);
    let v1 = found("api_v1_branch", Some("before"), MADE, Some(LATER));
    let v2 = found("api_v2_branch", Some("before"), MADE, None);
    let all = [main, kept, v1, v2];
    assert_eq!(remarks(&all).len(), 2);
    let drift = remarks_told(&all, |id| is_before(id).then_some(false));
    assert_eq!(drift.len(), 1, "{drift:?}");
    assert!(drift[0].contains("not a child of api_v1_branch"));
}
