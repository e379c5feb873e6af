//! `codegen`: the checked-in files that a program writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::process;
use crate::repository;
use crate::step::{Step, complain, say};

/// Where the gRPC code goes; nothing else is in there.
const PROTO: &str = "proto/src/gen";
/// Diesel's schema files: a binding, and the file that describes its tables.
const SCHEMAS: [(&str, &str); 2] = [
    ("users/v1", "user-service/src/schema/v1.rs"),
    ("users/v2", "user-service/src/schema/v2.rs"),
];

/// What the files should be.
struct Generated {
    /// Their content, by their path in the repository.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// A folder in which nothing else may be.
    alone_in: Option<&'static str>,
}

/// Writes the gRPC code (from proto/) and Diesel's schema files (from branches
/// that it starts and migrates for it).
#[derive(clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing: fail if a file is not what would be written.
    #[arg(long)]
    check: bool,
}

impl Codegen {
    pub(crate) fn run(&self) -> Result<()> {
        if self.check {
            return check();
        }
        // Written before the schemas are generated: what generates those is
        // built with it.
        generate_proto()?.write()?;
        generate_schemas()?.write()
    }
}

/// Fails, naming the files, if one is not what would be written.
pub(crate) fn check() -> Result<()> {
    let mut differing = generate_proto()?.differing()?;
    differing.append(&mut generate_schemas()?.differing()?);
    if differing.is_empty() {
        return Ok(());
    }
    for path in &differing {
        complain(&format!("  {} is not up to date", path.display()));
    }
    bail!("generated files are not up to date: run `cargo xtask codegen`");
}

impl Generated {
    /// The files whose content is not as it should be, and those that should
    /// not be there.
    fn differing(&self) -> Result<BTreeSet<PathBuf>> {
        let root = repository::root();
        let mut differing = BTreeSet::new();
        for (path, content) in &self.files {
            let full = root.join(path);
            if !full.exists() || read(&full)? != *content {
                differing.insert(path.clone());
            }
        }
        let Some(folder) = self.alone_in else {
            return Ok(differing);
        };
        for full in list(&root.join(folder))? {
            if let Some(name) = full.file_name() {
                let path = Path::new(folder).join(name);
                if !self.files.contains_key(&path) {
                    differing.insert(path);
                }
            }
        }
        Ok(differing)
    }

    /// Writes what differs, and only that: the rest is not to be rebuilt.
    fn write(&self) -> Result<()> {
        for path in self.differing()? {
            let full = repository::root().join(&path);
            let change = || -> io::Result<()> {
                let Some(content) = self.files.get(&path) else {
                    return fs::remove_file(&full);
                };
                if let Some(folder) = full.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(&full, content)
            };
            change().with_context(|| format!("write the file {}", full.display()))?;
            say(&format!("wrote {}", path.display()));
        }
        Ok(())
    }
}

fn generate_proto() -> Result<Generated> {
    // Read back from a folder of its own, so that a check touches nothing.
    let folder = repository::target_dir()?.join("codegen");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("delete the folder {}", folder.display()))?;
    }
    let mut command = process::cargo(["run", "--package", "xtask", "--example", "codegen", "--"]);
    command.arg(&folder);
    process::run_step("generate gRPC code", command)?;
    let mut files = BTreeMap::new();
    for path in list(&folder)? {
        if let Some(name) = path.file_name() {
            files.insert(Path::new(PROTO).join(name), read(&path)?);
        }
    }
    Ok(Generated {
        files,
        alone_in: Some(PROTO),
    })
}

fn generate_schemas() -> Result<Generated> {
    Binaries::build(false)?;
    let suite = ["--package", "suite", "--bin", "print-schema"];
    let mut build = process::cargo(["build"]);
    build.args(suite);
    process::run_step("build print-schema", build)?;
    let mut files = BTreeMap::new();
    for (binding, path) in SCHEMAS {
        let step = Step::start(&format!("generate schema of {binding}"));
        let mut command = process::cargo(["run", "--quiet"]);
        command.args(suite).args(["--", binding]);
        let source = format(&process::output(&mut command)?)?;
        files.insert(PathBuf::from(path), source.into_bytes());
        step.done();
    }
    Ok(Generated {
        files,
        alone_in: None,
    })
}

/// The source as rustfmt has it.
fn format(source: &str) -> Result<String> {
    let mut child = process::command("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start rustfmt")?;
    // It reads all before it writes: neither side waits for the other.
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(source.as_bytes())
            .context("write to rustfmt")?;
    }
    let output = child.wait_with_output().context("wait for rustfmt")?;
    if !output.status.success() {
        bail!("rustfmt failed: {}", output.status);
    }
    String::from_utf8(output.stdout).context("read the output of rustfmt")
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    list().with_context(|| format!("read the folder {}", folder.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read the file {}", path.display()))
}
