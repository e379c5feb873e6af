//! What most tests run on: the repository's broker.toml with the users service alone. A
//! second service would make each of them slower, and have each that counts branches,
//! bindings or steps say so once more.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the other service begins: the last one in the file.
const CUT: &str = "\n[services.billing]\n";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../broker.toml");
    let tests = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = tests.parent().ok_or("the repository")?;
    let folder = Path::new(&variable("OUT_DIR")?).join("users");
    fs::create_dir_all(&folder)?;
    let whole = fs::read_to_string(root.join("broker.toml"))?;
    fs::write(folder.join("broker.toml"), users_alone(&whole)?)?;
    // Its paths are relative to its folder.
    let migrations = folder.join("migrations");
    match fs::remove_file(&migrations) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => symlink(root.join("migrations"), migrations)?,
    }
    Ok(())
}

fn users_alone(whole: &str) -> Result<&str, Box<dyn Error>> {
    let (users, billing) = whole
        .split_once(CUT)
        .ok_or("broker.toml has no [services.billing]")?;
    let mut tables = billing.lines().filter(|line| line.starts_with('['));
    match tables.find(|table| !table.starts_with("[services.billing.")) {
        None => Ok(users),
        Some(table) => Err(format!(
            "broker.toml: {table} comes after [services.billing], which tests go without: move \
             it up"
        )
        .into()),
    }
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    std::env::var(name).map_err(|error| format!("{name}: {error}").into())
}
