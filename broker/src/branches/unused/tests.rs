#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::json;

use super::*;

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

fn without(version: &str) -> Config {
    let mut config = declared();
    config
        .bindings
        .retain(|spec| spec.name.to_string() != named(version));
    config
}

fn named(version: &str) -> String {
    format!("services/users/versions/{version}")
}

/// A branch that was made for that version.
fn made(name: &str, parent: &str, version: &str) -> Found {
    let id = |name: &str| format!("br-{}", name.replace('_', "-"));
    let made = "2026-01-01T00:00:00Z";
    let branch = json!({
        "id": id(name), "project_id": "late-frost-12345678", "name": name,
        "parent_id": (!parent.is_empty()).then(|| id(parent)), "current_state": "ready",
        "state_changed_at": made, "creation_source": "api",
        "default": name == "main", "protected": false,
        "compute_time_seconds": 0, "active_time_seconds": 0,
        "written_data_bytes": 0, "data_transfer_bytes": 0,
        "created_at": made, "updated_at": made, "last_reset_at": null,
    });
    Found {
        branch: serde_json::from_value(branch).unwrap(),
        managed: true,
        binding: named(version).parse().ok(),
        request: None,
    }
}

/// A branch that nobody made for a binding.
fn other(name: &str, parent: &str) -> Found {
    Found {
        binding: None,
        ..made(name, parent, "v0")
    }
}

/// The default branch, and those of both versions and of one that was.
fn world() -> Vec<Found> {
    vec![
        other("main", ""),
        made("api_v1_branch", "main", "v1"),
        made("api_v2_branch", "api_v1_branch", "v2"),
        made("old", "api_v1_branch", "v0"),
    ]
}

fn shown(config: &Config, all: Vec<Found>) -> Vec<String> {
    shown_used(config, all, |_| Users::default())
}

fn shown_used(config: &Config, all: Vec<Found>, users: impl Fn(&Branch) -> Users) -> Vec<String> {
    let all = unused(config, &View(all), users).into_iter();
    let shown = all.map(|one| match one.kept {
        None => format!("{} goes", one.name),
        Some(kept) => format!("{} stays: {kept}", one.name),
    });
    shown.collect()
}

#[test]
fn what_was_made_for_a_binding_that_is_declared_no_more_goes() {
    assert_eq!(shown(&declared(), world()), ["old goes"]);
    assert_eq!(shown(&declared(), world()[..3].to_vec()), [""; 0]);
    let mut all = world();
    all.pop();
    assert_eq!(shown(&without("v2"), all), ["api_v2_branch goes"]);
}

#[test]
fn children_go_before_their_parents() {
    let none = Config {
        bindings: Vec::new(),
        ..declared()
    };
    // Whatever their order by name.
    let all = vec![
        made("a", "main", "v1"),
        made("c", "b", "v3"),
        made("b", "a", "v2"),
        other("main", ""),
        made("d", "a", "v4"),
    ];
    assert_eq!(shown(&none, all), ["c goes", "b goes", "d goes", "a goes"]);
}

#[test]
fn what_a_declared_binding_or_its_parent_names_is_in_use() {
    // v2 is a fork of v1's branch, and says so.
    assert_eq!(shown(&without("v1"), world()), ["old goes"]);
    // Another binding took the branch over.
    let mut config = without("v2");
    config.bindings[0].branch = "api_v2_branch".parse().unwrap();
    config.bindings[0].parent = None;
    let mut all = world();
    all.pop();
    assert_eq!(
        shown(&config, all),
        [
            "api_v1_branch stays: services/users/versions/v1 is, to live on api_v2_branch; \
             `broker branches delete` deletes it"
        ]
    );
}

#[test]
fn what_may_not_be_deleted_stays_with_the_reason() {
    let old = || made("old", "main", "v0");
    let is = |change: fn(&mut Found)| {
        let mut old = old();
        change(&mut old);
        shown(&declared(), vec![other("main", ""), old])
    };
    assert_eq!(is(|_| {}), ["old goes"]);
    assert_eq!(is(|old| old.managed = false), [""; 0]);
    assert_eq!(is(|old| old.binding = None), [""; 0]);
    for (stays, why) in [
        (is(|old| old.branch.default = true), "is the default branch"),
        (is(|old| old.branch.protected = true), "is protected"),
    ] {
        assert!(
            stays[0].starts_with("old stays: ") && stays[0].contains(why),
            "{stays:?}"
        );
    }
    // A child that is somebody else's, and one that stays itself.
    let child = other("child", "old");
    let stays = shown(&declared(), vec![old(), child]);
    assert!(stays[0].contains("has children: child"), "{stays:?}");
    let mut child = made("child", "old", "v00");
    child.branch.protected = true;
    let stays = shown(&declared(), vec![old(), child]);
    assert!(stays[0].starts_with("child stays: "), "{stays:?}");
    assert!(stays[1].contains("has children: child"), "{stays:?}");
    // Leases, and bindings that another broker knows of.
    let lease = crate::names::LeaseId::random();
    let leased = Users {
        lease: Some(lease),
        ..Users::default()
    };
    let stays = shown_used(&declared(), vec![old()], |_| leased.clone());
    assert!(stays[0].contains(&lease.to_string()), "{stays:?}");
    let bound = Users {
        bindings: vec![named("v9").parse().unwrap()],
        ..Users::default()
    };
    let stays = shown_used(&declared(), vec![old()], |_| bound.clone());
    assert!(stays[0].contains(&named("v9")), "{stays:?}");
}
