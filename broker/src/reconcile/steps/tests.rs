#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{LeaseSettings, Revision, ServiceSpec, SqlFile};

fn revision(day: u32) -> Revision {
    Revision {
        version: format!("2026010{day}000000"),
        name: format!("2026-01-0{day}-000000_r{day}"),
    }
}

/// A binding of the service users, at that many revisions, seeded.
fn spec(version: &str, parent: Option<&str>, revisions: u32) -> BindingSpec {
    BindingSpec {
        name: format!("services/users/versions/{version}")
            .parse()
            .unwrap(),
        service: Arc::new(ServiceSpec {
            name: "users".parse().unwrap(),
            database: "neondb".into(),
            schema: "users".into(),
            migrations: "migrations".into(),
            statement_timeout: std::time::Duration::from_secs(30),
        }),
        branch: format!("branch_{version}").parse().unwrap(),
        parent: parent.map(|parent| parent.parse().unwrap()),
        revisions: (1..=revisions).map(revision).collect(),
        is_pinned: false,
        seed: Some(SqlFile {
            name: format!("{version}.sql"),
            path: format!("{version}.sql").into(),
        }),
        contract: None,
        gate: None,
        auto_migrate: true,
        read_only_endpoint: false,
        connections: 40,
    }
}

fn config(bindings: Vec<BindingSpec>) -> Config {
    let leases = LeaseSettings {
        default_ttl: Duration::from_secs(600),
        max_ttl: Duration::from_secs(3600),
        roles_per_branch_max: 400,
        ack_grace: std::time::Duration::from_secs(10),
        ephemeral_branches_max: None,
    };
    Config {
        leases,
        bindings,
        warm: Vec::new(),
        grants: Default::default(),
    }
}

fn two_versions() -> Config {
    config(vec![spec("v1", None, 1), spec("v2", Some("branch_v1"), 2)])
}

/// What `spec` has once it is as declared.
fn settle(world: &mut World, spec: &BindingSpec) {
    let endpoints = spec.endpoints().collect();
    world.branches.insert(spec.branch.clone(), endpoints);
    let place = (spec.branch.clone(), spec.service.name.clone());
    let inside = world.inside.entry(place).or_default();
    let versions = spec
        .revisions
        .iter()
        .map(|revision| revision.version.clone());
    inside.applied.extend(versions);
    let seed = spec.seed.as_ref().unwrap().name.clone();
    inside.seeded.insert((spec.name.to_string(), seed));
    inside.granted = true;
}

fn planned(config: &Config, world: &World) -> Vec<String> {
    let steps = plan(config, world).unwrap();
    steps.iter().map(Step::to_string).collect()
}

#[test]
fn from_nothing_a_fork_waits_for_its_parents_rows_and_inherits_its_revisions() {
    assert_eq!(
        planned(&two_versions(), &World::default()),
        [
            "create branch branch_v1 from the project's default branch",
            "migrate branch_v1 to 2026-01-01-000000_r1, unless it is there already",
            "seed branch_v1 with v1.sql",
            "grant the rights of the service users on branch_v1",
            "create branch branch_v2 from branch_v1",
            "migrate branch_v2 to 2026-01-02-000000_r2",
            "seed branch_v2 with v2.sql",
            "grant the rights of the service users on branch_v2",
        ]
    );
}

#[test]
fn a_world_that_matches_needs_no_step() {
    let config = two_versions();
    let mut world = World::default();
    for spec in &config.bindings {
        settle(&mut world, spec);
    }
    assert_eq!(planned(&config, &world), [""; 0]);
}

#[test]
fn what_an_interrupted_apply_left_is_not_done_again() {
    let config = two_versions();
    let mut world = World::default();
    settle(&mut world, &config.bindings[0]);
    let v2 = &config.bindings[1];
    // Forked and migrated, then killed.
    settle(&mut world, v2);
    let place = (v2.branch.clone(), v2.service.name.clone());
    let inside = world.inside.get_mut(&place).unwrap();
    inside.seeded = [("services/users/versions/v1".to_owned(), "v1.sql".to_owned())].into();
    assert_eq!(planned(&config, &world), ["seed branch_v2 with v2.sql"]);
}

#[test]
fn a_branch_without_an_endpoint_gets_one_and_is_not_taken_for_empty() {
    let config = config(vec![spec("v1", None, 1)]);
    let mut world = World::default();
    let branch = config.bindings[0].branch.clone();
    world.branches.insert(branch, BTreeSet::new());
    let steps = planned(&config, &world);
    assert_eq!(steps[0], "create a read-write endpoint for branch_v1");
    assert!(
        steps[1].ends_with("unless it is there already"),
        "{steps:?}"
    );
}

#[test]
fn a_read_only_endpoint_is_made_where_it_is_missing_and_wanted() {
    let mut config = two_versions();
    config.bindings[0].read_only_endpoint = true;
    let steps = planned(&config, &World::default());
    assert_eq!(
        steps[..2],
        [
            "create branch branch_v1 from the project's default branch",
            "create a read-only endpoint for branch_v1",
        ]
    );
    assert!(
        !steps[2..].iter().any(|step| step.contains("endpoint")),
        "a fork inherits none, and v2 wants none: {steps:?}"
    );
    let mut world = World::default();
    for spec in &config.bindings {
        settle(&mut world, spec);
    }
    assert_eq!(planned(&config, &world), [""; 0]);
    // It is wanted by another binding of the branch, and once.
    let mut other = spec("v1b", None, 1);
    other.branch = config.bindings[0].branch.clone();
    other.seed = None;
    other.read_only_endpoint = true;
    config.bindings[0].read_only_endpoint = false;
    config.bindings.extend([other.clone(), other]);
    let branch = config.bindings[0].branch.clone();
    let has = BTreeSet::from([EndpointKind::ReadWrite]);
    world.branches.insert(branch, has);
    let steps = planned(&config, &world);
    assert_eq!(steps, ["create a read-only endpoint for branch_v1"]);
    // One that nobody wants any more stays.
    config.bindings.truncate(2);
    let branch = config.bindings[0].branch.clone();
    let has = BTreeSet::from([EndpointKind::ReadWrite, EndpointKind::ReadOnly]);
    world.branches.insert(branch, has);
    assert_eq!(planned(&config, &world), [""; 0]);
}

#[test]
fn two_bindings_on_one_branch_create_it_once() {
    let mut other = spec("v1b", None, 1);
    other.branch = "branch_v1".parse().unwrap();
    let config = config(vec![spec("v1", None, 1), other]);
    assert_eq!(
        planned(&config, &World::default()),
        [
            "create branch branch_v1 from the project's default branch",
            "migrate branch_v1 to 2026-01-01-000000_r1, unless it is there already",
            "seed branch_v1 with v1.sql",
            "grant the rights of the service users on branch_v1",
            "seed branch_v1 with v1b.sql",
        ]
    );
}

#[test]
fn a_branch_that_is_ahead_is_refused() {
    let config = config(vec![spec("v1", None, 1)]);
    let mut ahead = spec("v1", None, 2);
    ahead.seed = config.bindings[0].seed.clone();
    let mut world = World::default();
    settle(&mut world, &ahead);
    let error = plan(&config, &world).unwrap_err();
    assert!(matches!(error, Error::Ahead { .. }), "{error}");
    assert!(error.to_string().contains("20260102000000"), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn a_parent_that_is_nowhere_is_refused() {
    let config = config(vec![spec("v2", Some("nowhere"), 1)]);
    let error = plan(&config, &World::default()).unwrap_err();
    assert!(matches!(error, Error::ParentNotFound { .. }), "{error}");
    assert!(error.to_string().contains("nowhere"), "{error}");

    let mut world = World::default();
    let nowhere = "nowhere".parse().unwrap();
    world.branches.insert(nowhere, BTreeSet::new());
    assert_eq!(
        planned(&config, &world)[0],
        "create branch branch_v2 from nowhere"
    );
}

#[test]
fn budgets_of_one_branch_add_up() {
    let mut other = spec("v1b", None, 1);
    other.branch = "branch_v1".parse().unwrap();
    let config = config(vec![spec("v1", None, 1), other]);
    let mut world = World::default();
    for spec in &config.bindings {
        settle(&mut world, spec);
    }
    let branch = config.bindings[0].branch.clone();
    let mut limits = Limits {
        max_connections: 168,
        superuser_reserved: 3,
        role_reserved: 0,
    };
    world.limits.insert(branch.clone(), limits);
    assert_eq!(planned(&config, &world), [""; 0]);

    limits.role_reserved = 1;
    world.limits.insert(branch, limits);
    let error = plan(&config, &world).unwrap_err().to_string();
    for number in [
        "160 connections",
        "has 159",
        "max_connections 168",
        "less 9",
    ] {
        assert!(error.contains(number), "{number} in {error}");
    }
}
