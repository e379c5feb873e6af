#![allow(clippy::unwrap_used)]

use super::*;

const SAMPLE: &str = r#"
[leases]
default_ttl = "10m"
max_ttl = "1h"

[services.users]
database = "neondb"
schema = "users"
migrations = "migrations"

[services.users.versions.v1]
branch = "one"
revision = "2026-01-10-090000_create"
seed = "seed.sql"
connections = 40

[services.users.versions.v2]
branch = "two"
parent = "one"
connections = 40
"#;

/// A folder with two revisions and a seed file.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for revision in ["2026-01-10-090000_create", "2026-02-14-090000_extend"] {
        let path = folder.path().join("migrations").join(revision);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("up.sql"), "SELECT 1;").unwrap();
    }
    std::fs::write(folder.path().join("seed.sql"), "SELECT 1;").unwrap();
    folder
}

fn parse(text: &str) -> Result<Config, String> {
    let folder = folder();
    let path = folder.path().join("broker.toml");
    Config::parse(text, &path).map_err(|problem| {
        let shown = problem.to_string();
        let folder = folder.path().display().to_string();
        shown.replace(&format!("{folder}/"), "")
    })
}

/// The problem with the sample after replacing a part of it.
fn problem(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "the sample does not hold {from:?}");
    parse(&SAMPLE.replacen(from, to, 1)).unwrap_err()
}

fn names(config: &Config) -> Vec<String> {
    let bindings = config.bindings.iter();
    bindings.map(|spec| spec.name.to_string()).collect()
}

#[test]
fn the_sample_in_the_repository_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(
        names(&config),
        [
            "services/billing/versions/v1",
            "services/users/versions/v1",
            "services/users/versions/v2"
        ]
    );
    let [billing, v1, v2] = config.bindings.as_slice() else {
        panic!("{config:?}");
    };
    // Several services, one database.
    assert_eq!(billing.branch, v1.branch);
    assert_eq!(billing.service.database, v1.service.database);
    assert_ne!(billing.service.schema, v1.service.schema);
    assert_eq!(v1.branch.as_str(), "api_v1_branch");
    assert_eq!(v2.parent.as_ref(), Some(&v1.branch));
    assert!(v1.revisions.len() < v2.revisions.len());
    assert_eq!(
        v1.head().unwrap().name,
        "2026-01-20-090000_lists_and_request_ids"
    );
    assert_eq!(config.leases.default_ttl, Duration::from_secs(600));
    assert_eq!(config.leases.max_ttl, Duration::from_secs(3600));
}

#[test]
fn what_is_left_out_has_a_default() {
    let text = SAMPLE.replace("[leases]\ndefault_ttl = \"10m\"\nmax_ttl = \"1h\"\n", "");
    let config = parse(&text).unwrap();
    assert_eq!(config.leases.default_ttl, Duration::from_secs(600));
    let v2 = &config.bindings[1];
    assert_eq!(v2.head().unwrap().name, "2026-02-14-090000_extend");
    assert_eq!(v2.seed, None);
    assert!(!v2.read_only_endpoint);
    assert_eq!(parse("").unwrap().bindings, []);
}

#[test]
fn a_version_may_want_a_read_only_endpoint() {
    let text = SAMPLE.replacen("seed = ", "read_only_endpoint = true\nseed = ", 1);
    let config = parse(&text).unwrap();
    let [v1, v2] = config.bindings.as_slice() else {
        panic!("{config:?}");
    };
    let both = [EndpointKind::ReadWrite, EndpointKind::ReadOnly];
    assert_eq!(v1.endpoints().collect::<Vec<_>>(), both);
    assert_eq!(v2.endpoints().collect::<Vec<_>>(), both[..1]);
}

#[test]
fn parents_come_before_children_whatever_their_names() {
    let text = SAMPLE
        .replace("versions.v1]", "versions.z]")
        .replace("versions.v2]", "versions.a]");
    let config = parse(&text).unwrap();
    assert_eq!(
        names(&config),
        ["services/users/versions/z", "services/users/versions/a"]
    );
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let cases = [
        (
            "branch = \"one\"",
            "brnch = \"one\"",
            "broker.toml:12:1: unknown field `brnch`, expected one of `branch`, `parent`, \
             `revision`, `seed`, `contract`, `gate`, `gate_max_age`, `auto_migrate`, \
             `read_only_endpoint`, `connections`",
        ),
        (
            "connections = 40",
            "connections = 40\nread_only_endpoint = 1",
            "broker.toml:16:22: invalid type: integer `1`, expected a boolean",
        ),
        (
            "connections = 40",
            "connections = 40\ngate = \"always\"",
            "broker.toml:16:8: services.users.versions.v1.gate: is \"rehearsed\", or left out",
        ),
        (
            "connections = 40",
            "connections = 40\ngate_max_age = \"1h\"",
            "broker.toml:16:16: services.users.versions.v1.gate_max_age: is of no use without gate",
        ),
        (
            "connections = 40",
            "connections = 40\ngate = \"rehearsed\"\ngate_max_age = \"721h\"",
            "broker.toml:17:16: services.users.versions.v1.gate_max_age: is 30 days at most: \
             rehearsals are forgotten then",
        ),
        (
            "connections = 40",
            "connections = \"40\"",
            "broker.toml:15:15: invalid type: string \"40\", expected u32",
        ),
        (
            "connections = 40",
            "",
            "broker.toml:11:1: missing field `connections`",
        ),
        (
            "connections = 40",
            "connections = 0",
            "broker.toml:15:15: services.users.versions.v1.connections: needs to be 1 or more",
        ),
        (
            "[services.users]",
            "[services.users",
            "broker.toml:6:16: unclosed table, expected `]`",
        ),
        (
            "revision = \"2026-01-10-090000_create\"",
            "revision = \"2026-01-10-090000_craete\"",
            "broker.toml:13:12: services.users.versions.v1.revision: no revision \
             \"2026-01-10-090000_craete\" in the service's migrations folder; there: \
             2026-01-10-090000_create, 2026-02-14-090000_extend",
        ),
        (
            "seed = \"seed.sql\"",
            "seed = \"sed.sql\"",
            "broker.toml:14:8: services.users.versions.v1.seed: no file sed.sql; write it or take \
             the line out",
        ),
        (
            "migrations = \"migrations\"",
            "migrations = \"migration\"",
            "broker.toml:9:14: services.users.migrations: read the revisions in migration: No such \
             file or directory (os error 2); name the folder of the service's revisions",
        ),
        (
            "branch = \"one\"",
            "branch = \"one\"\nparent = \"two\"",
            "broker.toml: services: the branches fork from each other: one -> two -> one; give one \
             of them another parent",
        ),
        (
            "parent = \"one\"",
            "parent = \"two\"",
            "broker.toml: services: the branches fork from each other: two -> two; give one of \
             them another parent",
        ),
        (
            "branch = \"two\"\nparent = \"one\"",
            "branch = \"one\"",
            "broker.toml: services.users.versions.v2.revision: differs from \
             services/users/versions/v1's, which is on the same branch one; give one of them a \
             branch of its own",
        ),
        (
            "branch = \"two\"\nparent = \"one\"",
            "branch = \"one\"\nparent = \"main\"\nrevision = \"2026-01-10-090000_create\"",
            "broker.toml: services.users.versions.v2.parent: differs from \
             services/users/versions/v1's, which is on the same branch one; a branch has one parent",
        ),
        (
            "revision = \"2026-01-10-090000_create\"\nseed = \"seed.sql\"\nconnections = 40\n\n\
             [services.users.versions.v2]",
            "connections = 40\n[services.users.versions.v2]\nrevision = \"2026-01-10-090000_create\"",
            "broker.toml: services.users.versions.v2.revision: is older than that of \
             services/users/versions/v1, which it forks from; a branch is never migrated down",
        ),
        (
            "[services.users.versions.v2]",
            "[services.users.versions.V2]",
            "broker.toml:17:26: services.users.versions.V2: \"V2\" is no version name: a \
             lower-case letter, then lower-case letters, digits, _ or -, at most 48 characters",
        ),
        (
            "schema = \"users\"",
            "schema = \"public\"",
            "broker.toml:8:10: services.users.schema: is not the service's own; name another",
        ),
        (
            "default_ttl = \"10m\"",
            "default_ttl = \"0s\"",
            "broker.toml:3:15: leases.default_ttl: \"0s\" is no duration of a second or more, as \
             \"10m\" and \"1h 30m\" are",
        ),
        (
            "default_ttl = \"10m\"",
            "default_ttl = \"2h\"",
            "broker.toml: leases.max_ttl: 3600s is less than default_ttl, 7200s; make it as much \
             or more",
        ),
        (
            "branch = \"one\"",
            "branch = \"\"",
            "broker.toml:12:10: services.users.versions.v1.branch: \"\" is no branch name: 1 to \
             256 characters, no control characters, no space at either end",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(problem(from, to), expected, "after {from:?} -> {to:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/no/such/broker.toml")).unwrap_err();
    let shown = crate::text::one_line(&error);
    assert!(shown.contains("/no/such/broker.toml"), "{shown}");
    assert!(shown.contains("--config"), "{shown}");
}

#[test]
fn bindings_may_share_a_branch_when_they_agree() {
    let text = SAMPLE.replace(
        "branch = \"two\"\nparent = \"one\"",
        "branch = \"one\"\nrevision = \"2026-01-10-090000_create\"",
    );
    let config = parse(&text).unwrap();
    let shared = config.bindings_on(&config.bindings[0].branch).count();
    assert_eq!(shared, 2);
}

const GRANTS: &str = r#"
[grants.users]
caller = "spiffe://example.org/users"
lease = [{ bindings = ["services/users/versions/*"], access = ["read_only", "read_write"] }]

[grants.ci]
caller = "token:ci"
lease = [{ branches = ["main"], services = ["users"], access = ["read_only"] }]
ephemeral = [{ bindings = ["services/users/versions/v1"], access = ["ddl"], max = 3 }]

[grants.people]
caller = "token:ops"
admin = true
"#;

#[test]
fn grants_are_read() {
    let config = parse(&format!("{SAMPLE}{GRANTS}")).unwrap();
    let v1 = "services/users/versions/v1".parse().unwrap();
    let users = config.grants.of("spiffe://example.org/users");
    assert_eq!(users.len(), 1);
    assert!(users[0].may_lease(&v1, crate::roles::Access::ReadWrite));
    assert!(!users[0].may_read() && !users[0].admin);
    assert!(config.grants.of("token:ops")[0].admin);
    let ci = &config.grants.of("token:ci")[0];
    assert!(!ci.may_lease(&v1, crate::roles::Access::ReadOnly));
    assert_eq!(ci.ephemeral[0].max, 3);
    assert_eq!(config.grants.of("token:other"), []);
    assert_eq!(parse(SAMPLE).unwrap().grants.0, []);
}

#[test]
fn a_grant_that_cannot_be_is_refused_with_its_place() {
    for (from, to, key) in [
        ("spiffe://example.org/users", "users", "grants.users.caller"),
        (
            "services/users/versions/*",
            "users/*",
            "grants.users.lease.bindings",
        ),
        (
            "[\"services/users/versions/*\"]",
            "[]",
            "grants.users.lease.bindings",
        ),
        ("\"read_only\", ", "\"ddl\", ", "grants.users.lease.access"),
        (
            "[\"read_only\", \"read_write\"]",
            "[]",
            "grants.users.lease.access",
        ),
        ("services = [\"users\"], ", "", "grants.ci.lease.services"),
        ("[\"main\"]", "[\"m*n\"]", "grants.ci.lease.branches"),
        ("max = 3", "max = 0", "grants.ci.ephemeral.max"),
        ("[\"ddl\"]", "[\"all\"]", "grants.ci.ephemeral.access"),
        ("admin = true", "admin = false", "grants.people"),
        ("admin = true", "administrator = true", "administrator"),
    ] {
        assert!(GRANTS.contains(from), "{from}");
        let text = format!("{SAMPLE}{}", GRANTS.replacen(from, to, 1));
        let problem = parse(&text).unwrap_err();
        assert!(problem.starts_with("broker.toml:"), "{problem}");
        assert!(problem.contains(key), "{key}: {problem}");
    }
}

const WARM: &str = r#"
[warm.ci]
parent = "services/users/versions/v1"
size = 3
max_age = "30m"
migrate = true
access = "ddl"
"#;

#[test]
fn a_pool_is_of_a_declared_version_and_has_defaults() {
    let config = parse(&format!("{SAMPLE}{WARM}")).unwrap();
    let [ci] = &config.warm[..] else {
        panic!("one pool: {:?}", config.warm);
    };
    assert_eq!((ci.size, ci.max_age), (3, Duration::from_secs(1_800)));
    assert_eq!(ci.access, Access::Ddl);
    // All that there are, whatever the version stops at.
    assert_eq!(ci.migrate.as_ref().unwrap().len(), 2);
    let short = "[warm.ci]\nparent = \"services/users/versions/v1\"\nsize = 1\n";
    let config = parse(&format!("{SAMPLE}{short}")).unwrap();
    let ci = &config.warm[0];
    assert_eq!(ci.max_age, Duration::from_secs(3_600));
    assert_eq!((ci.access, &ci.migrate), (Access::ReadWrite, &None));
    assert_eq!(config.leases.ephemeral_branches_max, None);
}

#[test]
fn a_pool_that_cannot_be_is_refused_with_its_place() {
    for (from, to, key) in [
        ("versions/v1", "versions/v9", "warm.ci.parent"),
        ("services/users/versions/v1", "one", "warm.ci.parent"),
        ("size = 3", "size = 0", "warm.ci.size"),
        ("size = 3", "size = 101", "warm.ci.size"),
        ("\"30m\"", "\"0s\"", "warm.ci.max_age"),
        ("\"30m\"", "\"400h\"", "warm.ci.max_age"),
        ("\"ddl\"", "\"all\"", "warm.ci.access"),
        ("[warm.ci]", "[warm.\"c i\"]", "warm.c i"),
        ("migrate", "migrated", "migrated"),
    ] {
        assert!(WARM.contains(from), "{from}");
        let text = format!("{SAMPLE}{}", WARM.replacen(from, to, 1));
        let problem = parse(&text).unwrap_err();
        assert!(problem.starts_with("broker.toml:"), "{problem}");
        assert!(problem.contains(key), "{key}: {problem}");
    }
    let capped = |max: usize| {
        let cap = format!("max_ttl = \"1h\"\nephemeral_branches_max = {max}");
        let text = SAMPLE.replacen("max_ttl = \"1h\"", &cap, 1);
        parse(&format!("{text}{WARM}"))
    };
    for max in [0, 3] {
        let problem = capped(max).unwrap_err();
        assert!(
            problem.contains("leases.ephemeral_branches_max"),
            "{problem}"
        );
    }
    let config = capped(4).unwrap();
    assert_eq!(config.leases.ephemeral_branches_max, Some(4));
}

#[test]
fn a_service_is_one_whatever_the_order_of_its_bindings() {
    // Parents first: users, orders, users.
    let orders = r#"
[services.orders]
database = "neondb"
schema = "orders"
migrations = "migrations"

[services.orders.versions.v1]
branch = "middle"
parent = "one"
connections = 40
"#;
    let between = SAMPLE.replace("parent = \"one\"", "parent = \"middle\"");
    let config = parse(&format!("{between}{orders}")).unwrap();
    let bindings = config.bindings.iter();
    let of: Vec<_> = bindings.map(|spec| spec.service.name.to_string()).collect();
    assert_eq!(of[0], of[2]);
    assert_ne!(of[0], of[1]);
    let services: Vec<_> = config.services().map(|one| one.name.to_string()).collect();
    assert_eq!(services, [of[1].clone(), of[0].clone()]);
}
