//! Which crate of the workspace may reach which: the arrows of
//! docs/ARCHITECTURE.md, as a table that `cargo tree` is held against.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::process;
use crate::step::{Step, complain};

/// A crate, and those it may reach, directly or through others.
const ARROWS: [(&str, &[&str]); 9] = [
    ("proto", &[]),
    ("rpc", &[]),
    ("xtask", &[]),
    ("neon-api", &[]),
    ("neon-emulator", &["neon-api"]),
    ("branch-pool", &["proto", "rpc"]),
    ("broker", &["neon-api", "rpc", "proto"]),
    ("user-service", &["branch-pool", "rpc", "proto"]),
    (
        "suite",
        &[
            "proto",
            "rpc",
            "neon-api",
            "neon-emulator",
            "branch-pool",
            "broker",
            "user-service",
        ],
    ),
];

/// Features of a crate, and who may turn them on. neon-api's HTTP client: one
/// product crate talks to Neon, the emulator has the wire types alone. All of rpc
/// but its client: a library that calls the broker brings no server along.
const FEATURES: [(&str, &str, &[&str]); 2] = [
    ("neon-api", "client", &["neon-api", "broker", "suite"]),
    ("rpc", "server", &["rpc", "broker", "user-service", "suite"]),
];

/// Fails, naming each, if there is an arrow that should not be.
pub(crate) fn check() -> Result<()> {
    let step = Step::start("dependency arrows");
    let mut wrong = Vec::new();
    let members = members()?;
    for member in &members {
        let Some((_, may_reach)) = ARROWS.iter().find(|(name, _)| name == member) else {
            wrong.push(format!(
                "{member} is not in the table of xtask/src/arrows.rs"
            ));
            continue;
        };
        // With dev-dependencies: a crate's own tests keep to the arrows too.
        let tree = tree(&["--package", member, "--edges", "normal,build,dev"])?;
        wrong.extend(violations(member, may_reach, &members, &tree));
    }
    if wrong.is_empty() {
        step.done();
        return Ok(());
    }
    drop(step);
    for sentence in &wrong {
        complain(&format!("  {sentence}"));
    }
    bail!("{} forbidden dependencies", wrong.len());
}

/// A line of `cargo tree`: a package and its features.
#[derive(Debug, PartialEq)]
struct Package {
    name: String,
    features: Vec<String>,
}

fn members() -> Result<BTreeSet<String>> {
    let packages = tree(&["--workspace", "--depth", "0"])?;
    Ok(packages.into_iter().map(|package| package.name).collect())
}

fn tree(arguments: &[&str]) -> Result<Vec<Package>> {
    let mut command = process::cargo(["tree", "--locked"]);
    command
        .args(["--prefix", "none", "--format", "{p}|{f}"])
        .args(arguments);
    Ok(parse(&process::output(&mut command)?))
}

fn parse(tree: &str) -> Vec<Package> {
    tree.lines()
        .filter_map(|line| {
            let (package, features) = line.split_once('|')?;
            let name = package.split_whitespace().next()?;
            Some(Package {
                name: name.to_owned(),
                features: features
                    .split([',', ' '])
                    .filter(|feature| !feature.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect()
}

/// A sentence for each arrow from this member that should not be.
fn violations(
    member: &str,
    may_reach: &[&str],
    members: &BTreeSet<String>,
    tree: &[Package],
) -> BTreeSet<String> {
    let mut sentences = BTreeSet::new();
    for package in tree.iter().filter(|package| package.name != member) {
        let name = package.name.as_str();
        if members.contains(name) && !may_reach.contains(&name) {
            sentences.insert(format!("{member} must not reach {name}"));
        }
        for (of, feature, holders) in FEATURES {
            let has_it = name == of && package.features.iter().any(|f| f == feature);
            if has_it && !holders.contains(&member) {
                sentences.insert(format!(
                    "{member} must not turn on the feature {feature} of {of}"
                ));
            }
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ARROWS, parse, violations};

    const TREE: &str = "\
neon-emulator v0.1.0 (/home/someone/branch-broker/neon-emulator)|
neon-api v0.1.0 (/home/someone/branch-broker/neon-api)|client,default
serde v1.0.0|derive,std
rpc v0.1.0 (/home/someone/branch-broker/rpc)|
";

    fn found(member: &str, may_reach: &[&str]) -> Vec<String> {
        let members: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
        violations(member, may_reach, &members, &parse(TREE))
            .into_iter()
            .collect()
    }

    #[test]
    fn a_line_is_a_package_and_its_features() {
        let packages = parse(TREE);
        assert_eq!(packages.len(), 4);
        assert_eq!(packages[1].name, "neon-api");
        assert_eq!(packages[1].features, ["client", "default"]);
        assert!(packages[3].features.is_empty());
    }

    #[test]
    fn a_forbidden_crate_and_a_forbidden_feature_are_found() {
        assert_eq!(
            found("neon-emulator", &["neon-api"]),
            [
                "neon-emulator must not reach rpc",
                "neon-emulator must not turn on the feature client of neon-api",
            ]
        );
    }

    #[test]
    fn a_library_brings_no_server_along() {
        let members = ["branch-pool", "rpc"].map(str::to_owned).into();
        let tree = parse("rpc v0.1.0 (/rpc)|default,server");
        let found = violations("branch-pool", &["rpc"], &members, &tree);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["branch-pool must not turn on the feature server of rpc"]
        );
    }

    #[test]
    fn what_is_allowed_is_not_found() {
        let broker = ["neon-api", "rpc", "neon-emulator"];
        assert_eq!(found("broker", &broker), Vec::<String>::new());
    }
}
