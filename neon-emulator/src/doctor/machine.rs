//! The machine: Postgres, its user, the address.

use std::net::TcpListener;

use super::{Checkup, Finding};
use crate::postgres::{FindError, Installation, ServerUser};

/// Says which Postgres there is; its major version, if there is one.
pub(super) fn postgres(checkup: &Checkup, findings: &mut Vec<Finding>) -> Option<u32> {
    let found = match Installation::find(checkup.postgres_bin.as_deref()) {
        Ok(found) => found,
        Err(FindError::Missing { .. }) => {
            findings.push(match Installation::check_installable() {
                Ok(()) => Finding::note(
                    "Postgres: none is found; a start installs the package postgresql by itself",
                    "nothing has to be done; --postgres-bin names another installation",
                ),
                Err(reason) => Finding::problem(FindError::Missing { reason }),
            });
            return None;
        }
        Err(error) => {
            findings.push(Finding::problem(error));
            return None;
        }
    };
    findings.push(Finding::fine(format!(
        "Postgres: {} at {}",
        found.version(),
        found.bin().display()
    )));
    if !found.program("pg_dump").exists() {
        findings.push(Finding::note(
            "pg_dump is missing beside it: schemas cannot be shown as SQL",
            "install the package postgresql-client",
        ));
    }
    Some(found.major())
}

/// Says who runs Postgres.
pub(super) fn user(checkup: &Checkup, findings: &mut Vec<Finding>) -> Option<ServerUser> {
    match ServerUser::choose(checkup.postgres_user.as_deref()) {
        Ok(user) => {
            let why = match nix::unistd::geteuid().is_root() {
                true => "this is root, as whom Postgres refuses to run",
                false => "as the emulator itself",
            };
            findings.push(Finding::fine(format!("user: {} ({why})", user.name())));
            Some(user)
        }
        Err(error) => {
            findings.push(Finding::problem(error));
            None
        }
    }
}

/// Says whether the API can listen there.
pub(super) fn address(checkup: &Checkup, findings: &mut Vec<Finding>) {
    use crate::start_error::StartError;
    let address = checkup.listen;
    findings.push(if !address.ip().is_loopback() {
        Finding::problem(StartError::NotLoopback { address })
    } else {
        match TcpListener::bind(address) {
            Ok(_) => Finding::fine(format!("address: {address} is free")),
            Err(reason) => Finding::problem(StartError::Listen { address, reason }),
        }
    });
    if std::env::var_os("NEON_API_KEY").is_none_or(|key| key.is_empty()) {
        findings.push(Finding::note(
            "NEON_API_KEY is not set here",
            "set it for `serve` to the key that callers will show",
        ));
    }
}
