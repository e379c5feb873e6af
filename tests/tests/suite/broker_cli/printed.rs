//! What subcommands print, as tables and as JSON.

use anyhow::ensure;

use super::{Bench, V1};

/// What differs from run to run, and what is put in its place.
const FILTERS: [(&str, &str); 12] = [
    (r"br-[a-z]+-[a-z]+-[a-z0-9]+", "br-ID"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\d{4}-\d{2}-\d{2}T[0-9:.]+Z", "TIME"),
    (
        r"lease_users_([a-z]+)_[0-9a-f]{8}_\d+",
        "lease_users_${1}_N",
    ),
    (
        r"postgresql://\S+:[^@\s]+@[^/\s]+/",
        "postgresql://ROLE:PASSWORD@ADDRESS/",
    ),
    (r"\b[0-9A-F]+/[0-9A-F]+\b", "LSN"),
    // Not there until it was measured.
    (r#"\s*"logicalSizeBytes": "\d+","#, ""),
    // Before ids: one in forty has no letter.
    (r"\b[0-9a-f]{8}\b", "HEX"),
    (r#""(id|generation)": "\d+""#, r#""${1}": "N""#),
    (r#""etag": "[^"]+""#, r#""etag": "ETAG""#),
    (r"\bbbt_[\w-]+", "TOKEN"),
    // Columns are as wide as what differs.
    (r"(\S) {2,}", "${1}  "),
];

/// Holds what a command prints for people, and for programs, against its snapshot.
macro_rules! printed {
    ($bench:expr, $name:literal, $arguments:expr) => {{
        let arguments: &[&str] = $arguments;
        for output in ["table", "json"] {
            let said = $bench
                .says(&[arguments, &["--output", output]].concat())
                .await?;
            if output == "json" && !said.is_empty() {
                serde_json::from_str::<serde_json::Value>(&said)?;
            }
            let is_acquire = arguments.starts_with(&["leases", "acquire"]);
            ensure!(is_acquire || !said.contains("postgresql://"), "{said}");
            insta::with_settings!({
                filters => FILTERS.to_vec(),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, { insta::assert_snapshot!(format!("{}_{output}", $name), said) });
        }
    }};
}

#[tokio::test]
async fn bindings_leases_and_audit_events() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    printed!(bench, "bindings_list", &["bindings", "list"]);
    printed!(bench, "bindings_get", &["bindings", "get", V1]);
    printed!(bench, "leases_list_empty", &["leases", "list"]);
    let acquire = [
        "leases",
        "acquire",
        V1,
        "--holder",
        "suite",
        "--ttl",
        "10m",
        "--access",
        "read_only",
    ];
    // Two of them, and then one.
    printed!(bench, "leases_acquire", &acquire);
    let one = bench.leases().await?[0].name.clone();
    printed!(bench, "leases_release", &["leases", "release", &one]);
    let one = bench.lease().await?.name;
    printed!(bench, "leases_list", &["leases", "list"]);
    printed!(bench, "leases_get", &["leases", "get", &one]);
    printed!(bench, "leases_renew", &["leases", "renew", &one]);
    let events = ["audit", "--holder", "suite", "--limit", "1"];
    printed!(bench, "audit", &events);
    printed!(bench, "bindings_rotate", &["bindings", "rotate", V1]);
    let revoke = [
        "leases",
        "revoke",
        "--service",
        "users",
        "--reason",
        "a test",
    ];
    let revoked = bench.says(&revoke).await?;
    ensure!(revoked.contains("a test"), "{revoked}");
    printed!(bench, "leases_revoke_none", &revoke);
    bench.stop().await
}

#[tokio::test]
async fn branches_and_operations() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let create = ["branches", "create", "dev", "--parent", "api_v1_branch"];
    printed!(bench, "branches_create", &create);
    printed!(bench, "branches_list", &["branches", "list"]);
    printed!(bench, "branches_tree", &["branches", "tree"]);
    printed!(bench, "branches_get", &["branches", "get", "api_v2_branch"]);
    let update = ["branches", "update", "dev", "--protected", "true"];
    printed!(bench, "branches_update", &update);
    bench
        .says(&["branches", "update", "dev", "--protected", "false"])
        .await?;
    printed!(bench, "branches_reset", &["branches", "reset", "dev"]);
    let restore = ["branches", "restore", "dev", "--source", "main"];
    printed!(bench, "branches_restore", &restore);
    let diff = ["branches", "diff", "api_v2_branch", "--database", "neondb"];
    printed!(bench, "branches_diff", &diff);
    let schema = [
        "branches",
        "schema",
        "main",
        "--database",
        "neondb",
        "--output",
        "json",
    ];
    let schema: serde_json::Value = serde_json::from_str(&bench.says(&schema).await?)?;
    ensure!(
        schema["schema"]
            .as_str()
            .is_some_and(|text| text.contains("SET ")),
        "{schema}"
    );
    printed!(
        bench,
        "branches_set_default",
        &["branches", "set-default", "dev"]
    );
    bench.says(&["branches", "set-default", "main"]).await?;
    let delete = ["branches", "delete", "dev"];
    ensure!(bench.says(&delete).await? == "done\n");
    let filter = ["operations", "list", "--filter", "method = DeleteBranch"];
    printed!(bench, "operations_list", &filter);
    let list = bench.says(&filter).await?;
    let operation = list.lines().nth(1).and_then(|line| line.split(' ').next());
    let operation = operation.unwrap_or_default();
    printed!(bench, "operations_get", &["operations", "get", operation]);
    printed!(bench, "operations_wait", &["operations", "wait", operation]);
    bench.stop().await
}

#[tokio::test]
async fn plans_health_tokens_and_completions() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    printed!(bench, "health", &["health"]);
    printed!(bench, "plan_nothing", &["plan"]);
    printed!(bench, "apply_nothing", &["apply"]);
    let config = bench.config.text()?;
    let third = "\n[services.users.versions.v3]\nbranch = \"api_v3_branch\"\n\
                 parent = \"api_v2_branch\"\nconnections = 10\n";
    bench.config.write(&format!("{config}{third}"))?;
    printed!(bench, "plan", &["plan"]);
    let file = bench.folder.join("tokens");
    let tokens = ["--tokens-file", file.to_str().unwrap_or_default()];
    let create = [&["tokens", "create", "people"], &tokens[..]].concat();
    printed!(bench, "tokens_create", &create);
    printed!(
        bench,
        "tokens_list",
        &[&["tokens", "list"], &tokens[..]].concat()
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.says(&["completions", shell]).await?;
        ensure!(script.contains("ephemeral"), "{shell}: {script}");
    }
    bench.stop().await
}
