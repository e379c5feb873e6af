//! Whether Postgres takes a setting's value. It is asked itself: it alone knows
//! the units, the ranges and the words of each.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::{Installation, ServerUser, log};

/// How long it may take to say so.
const ANSWER_SECONDS_MAX: u64 = 10;

/// Why it does not take the value. `None`: it does.
pub(crate) async fn refusal(
    installation: &Installation,
    user: &ServerUser,
    name: &str,
    value: &str,
) -> io::Result<Option<String>> {
    // `-C` prints a setting as a server would have it, and starts none. The empty
    // file is all the configuration; the folder is not looked into.
    let mut command = user.command(&installation.program("postgres"));
    command
        .args(["-C", name, "-D", "/", "-c", "config_file=/dev/null", "-c"])
        .arg(format!("{name}={value}"))
        .current_dir("/");
    let output = tokio::process::Command::from(command)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(ANSWER_SECONDS_MAX), output).await??;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(Some(log::failure(&said).to_owned()))
}
