//! Other people's programs, installed by name from npm and PyPI into cargo's
//! target folder, once for each version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Written last into the folder of a tool: without it the folder is rubbish.
const COMPLETE: &str = ".complete";

/// The folder of an npm package of just this version. Its programs are in
/// `node_modules/.bin`, itself in `node_modules/<package>`. Nothing of a package
/// runs at its installation.
///
/// # Errors
/// When npm is missing or cannot install it.
pub async fn npm(package: &str, version: &str) -> anyhow::Result<PathBuf> {
    let name = package.trim_start_matches('@').replace('/', "-");
    let wanted = format!("{package}@{version}");
    install(&format!("npm/{name}-{version}"), move |folder| {
        let mut npm = command("npm");
        npm.args([
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
        ]);
        let missing = "npm is not installed: install the package npm (apt-get install npm)";
        run(npm.arg(folder).arg(&wanted), missing)
    })
    .await
}

/// The folder of a Python environment that has this version of a PyPI package;
/// its programs are in `bin`.
///
/// # Errors
/// When Python or its venv is missing, or pip cannot install the package.
pub async fn python(package: &str, version: &str) -> anyhow::Result<PathBuf> {
    let wanted = format!("{package}=={version}");
    install(&format!("python/{package}-{version}"), move |folder| {
        let missing = "python3 with venv is not installed: install the packages python3 and \
                       python3-venv (apt-get install python3 python3-venv)";
        run(command("python3").args(["-m", "venv"]).arg(folder), missing).context(missing)?;
        let mut pip = command(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.arg(&wanted), "the environment has no pip")
    })
    .await
}

/// Installs a tool unless it is there. Tests are processes of their own: one
/// installs, the others wait for it.
pub(crate) async fn install(
    name: &str,
    installer: impl FnOnce(&Path) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<PathBuf> {
    let folder = tools_folder()?.join(name);
    tokio::task::spawn_blocking(move || {
        let parent = folder.parent().context("a folder above the tool")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        let lock = folder.with_extension("lock");
        let lock = File::create(&lock).with_context(|| format!("open {}", lock.display()))?;
        // Until `lock` is closed.
        lock.lock()
            .context("wait for another test's installation")?;
        if folder.join(COMPLETE).exists() {
            return Ok(folder);
        }
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("remove what is left in {}", folder.display()))?;
        }
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        installer(&folder)?;
        File::create(folder.join(COMPLETE)).context("mark the tool as installed")?;
        Ok(folder)
    })
    .await
    .context("install a tool")?
}

/// `target/tools`, whatever cargo's target folder is: tests lie in
/// `<target>/<profile>/deps`.
fn tools_folder() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("find this program")?;
    let target = here.ancestors().nth(3).context("cargo's target folder")?;
    Ok(target.join("tools"))
}

pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command; `missing` says what to do where there is no such program.
pub(crate) fn run(command: &mut Command, missing: &str) -> anyhow::Result<()> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{missing}"),
        Err(error) => return Err(error).with_context(|| format!("run {command:?}")),
    };
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_what_to_install() {
        let error = run(&mut command("no-such-program-here"), "apt-get install it");
        assert_eq!(error.unwrap_err().to_string(), "apt-get install it");
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let mut failing = command("sh");
        failing.args(["-c", "echo why >&2; exit 3"]);
        let error = run(&mut failing, "").unwrap_err().to_string();
        assert!(error.contains("exit status: 3: why"), "{error}");
    }
}
