//! A command that has a lease for as long as it runs.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use proto::broker::v1 as pb;
use tokio::process::Command;

use super::api::Api;
use super::held::Held;
use super::progress::Waiting;
use super::signals::{Signals, forward};
use super::{client, psql};

/// What a shell says of a command that was ended by a signal: this and its number.
const SIGNAL_CODE: i32 = 128;
/// What it says of one that it could not start, or not find.
const NOT_STARTED_CODE: u8 = 126;
const NOT_FOUND_CODE: u8 = 127;

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Psql(#[from] psql::Error),
    #[error("wait for the command")]
    Wait(#[source] io::Error),
}

/// Acquires the lease, runs the command that is made for it, renews the lease
/// meanwhile and gives it back, however the command ends. The exit code is the
/// command's. A command whose lease is lost goes on: to stop it half-way could leave
/// more behind than a branch that ends by itself.
pub(super) async fn run(
    api: Api,
    request: pb::AcquireLeaseRequest,
    command: impl FnOnce(&Held) -> Result<Command, Error>,
    not_found: &str,
) -> Result<ExitCode, Error> {
    let mut signals = Signals::listen().map_err(Error::Signals)?;
    let waiting = Waiting::begin("acquire a lease");
    let mut held = tokio::select! {
        held = Held::acquire(api.leases, request) => held?,
        // What may have been given by now ends by itself.
        signal = signals.next() => return Ok(code(SIGNAL_CODE + signal as i32)),
    };
    drop(waiting);
    let ended = match command(&held) {
        Ok(command) => supervise(command, &mut signals, &mut held, not_found).await,
        Err(error) => Err(error),
    };
    let waiting = Waiting::begin("release the lease");
    let left = held.release().await;
    drop(waiting);
    if let Some(left) = left {
        eprintln!("warning: {left}");
    }
    ended
}

async fn supervise(
    mut command: Command,
    signals: &mut Signals,
    held: &mut Held,
    not_found: &str,
) -> Result<ExitCode, Error> {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.as_std().get_program().display();
            return Ok(match error.kind() {
                io::ErrorKind::NotFound => {
                    eprintln!("error: there is no command {program}{not_found}");
                    ExitCode::from(NOT_FOUND_CODE)
                }
                _ => {
                    eprintln!("error: run {program}: {error}");
                    ExitCode::from(NOT_STARTED_CODE)
                }
            });
        }
    };
    let mut is_held = true;
    let mut keeping = std::pin::pin!(held.keep());
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(code_of(status.map_err(Error::Wait)?))),
            signal = signals.next() => forward(signal, &child),
            why = &mut keeping, if is_held => {
                is_held = false;
                eprintln!("warning: {why}; the command goes on, its sessions may end");
            }
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    let signal = status.signal().unwrap_or_default();
    status.code().unwrap_or(SIGNAL_CODE + signal)
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_a_signal_ends_has_128_and_its_number() {
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code_of(ExitStatus::from_raw(15)), 143);
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
    }
}
