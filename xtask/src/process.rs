//! Running other programs to their end.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::repository;
use crate::step::{self, Step};

/// How much of a program's output is kept to be shown: its end.
const OUTPUT_BYTES_MAX: usize = 512 * 1024;

/// The variables that lead to a Neon account.
const NEON_VARIABLES: [&str; 3] = ["NEON_API_KEY", "NEON_PROJECT_ID", "NEON_API_URL"];

/// A command in the repository's root, without Neon's variables: compilers,
/// tests and tools have no business with an account. Who needs them sets them.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(repository::root()).stdin(Stdio::null());
    for variable in NEON_VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The cargo that runs this program.
pub(crate) fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = command(cargo);
    command.args(arguments);
    command
}

/// What a program says its version is. None: it is not installed, or broken.
pub(crate) fn version(program: impl AsRef<OsStr>) -> Option<String> {
    let output = command(program).arg("--version").output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command with this program's own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs a command quietly, and returns what it wrote to standard output. What
/// it wrote to standard error is shown only if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {}", describe(command)))?;
    if !output.status.success() {
        step::complain(String::from_utf8_lossy(&output.stderr).trim_end());
        bail!("{} failed: {}", describe(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("read the output of {}", describe(command)))
}

/// Runs a command as a step: its last line is the step's note, all of its
/// output is shown if it fails.
pub(crate) fn run_step(label: &str, command: Command) -> Result<()> {
    let name = describe(&command);
    let step = Step::start(label);
    let captured = capture(command, &step)?;
    if !captured.status.success() {
        drop(step);
        step::complain(captured.text.trim_end());
        bail!("{name} failed: {}", captured.status);
    }
    step.done();
    Ok(())
}

/// What a command did.
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error, as they came; at most their end.
    pub(crate) text: String,
}

/// Runs a command and keeps its output; each line becomes the step's note.
pub(crate) fn capture(mut command: Command, step: &Step) -> Result<Captured> {
    let name = describe(&command);
    if step::is_live() {
        command
            .env("CARGO_TERM_COLOR", "always")
            .env("CARGO_TERM_PROGRESS_WHEN", "always")
            .env("CARGO_TERM_PROGRESS_WIDTH", "100");
    }
    let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
    let second = writer.try_clone().context("copy a pipe")?;
    let mut child = command
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    // It holds the pipe's writing ends: the pipe would never end.
    drop(command);

    let mut transcript = Transcript::default();
    let mut chunk = [0; 8192];
    loop {
        let count = reader
            .read(&mut chunk)
            .with_context(|| format!("read the output of {name}"))?;
        if count == 0 {
            break;
        }
        for byte in &chunk[..count] {
            if let Some(note) = transcript.push(*byte) {
                step.note(&note);
            }
        }
    }
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    Ok(Captured {
        status,
        text: transcript.into_text(),
    })
}

/// Output, split into lines that stay and progress that a carriage return wipes.
#[derive(Default)]
struct Transcript {
    kept: Vec<u8>,
    line: Vec<u8>,
}

impl Transcript {
    /// Takes a byte; returns what a finished line says.
    fn push(&mut self, byte: u8) -> Option<String> {
        if !matches!(byte, b'\n' | b'\r') {
            self.line.push(byte);
            return None;
        }
        let note = progress(&plain(&String::from_utf8_lossy(&self.line)));
        if byte == b'\n' {
            self.line.push(b'\n');
            self.kept.append(&mut self.line);
            if self.kept.len() > 2 * OUTPUT_BYTES_MAX {
                self.kept.drain(..self.kept.len() - OUTPUT_BYTES_MAX);
            }
        }
        self.line.clear();
        Some(note)
    }

    fn into_text(mut self) -> String {
        self.kept.append(&mut self.line);
        let start = self.kept.len().saturating_sub(OUTPUT_BYTES_MAX);
        String::from_utf8_lossy(&self.kept[start..]).replace("\x1b[K", "")
    }
}

/// What a line says, without cargo's bar: `Building [==> ] 3/9: syn` is `3/9: syn`.
fn progress(line: &str) -> String {
    let line = line.trim();
    match line.split_once("] ") {
        Some((bar, rest)) if bar.starts_with("Building [") => rest.to_owned(),
        _ => line.to_owned(),
    }
}

/// The text without its escape sequences.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            // Up to the letter that ends it: \x1b[1;32m, \x1b[K.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

/// The command as one would type it, as far as an error message needs it.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Transcript, command, plain, progress};

    #[test]
    fn escapes_are_removed() {
        assert_eq!(
            plain("\x1b[K\x1b[1;32m   Compiling\x1b[0m syn"),
            "   Compiling syn"
        );
    }

    #[test]
    fn cargos_bar_is_removed_and_other_lines_are_not() {
        assert_eq!(
            progress("  Building [==>   ] 3/9: syn, quote"),
            "3/9: syn, quote"
        );
        assert_eq!(progress("   Compiling syn v2.0"), "Compiling syn v2.0");
        assert_eq!(progress("warning: [a] b"), "warning: [a] b");
    }

    #[test]
    fn progress_is_noted_but_not_kept() {
        let mut transcript = Transcript::default();
        let notes: Vec<String> = b"Building [=> ] 1/2: a\r\x1b[Kerror: no\nlast"
            .iter()
            .filter_map(|byte| transcript.push(*byte))
            .collect();
        assert_eq!(notes, ["1/2: a", "error: no"]);
        assert_eq!(transcript.into_text(), "error: no\nlast");
    }

    #[test]
    fn commands_see_no_neon_account() {
        let command = command("true");
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        assert_eq!(removed, ["NEON_API_KEY", "NEON_API_URL", "NEON_PROJECT_ID"]);
    }
}
