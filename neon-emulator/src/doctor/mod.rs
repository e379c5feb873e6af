//! `neon-emulator doctor`: what a start would find, and what to do about it.
//! Nothing is changed: what is tried out is removed again.

mod folder;
mod machine;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::storage::{ImageSize, StorageWish};

/// What a start would be given.
#[derive(Debug, Clone)]
pub struct Checkup {
    /// Where the API is to listen.
    pub listen: SocketAddr,
    /// The data folder.
    pub data: PathBuf,
    /// The folder of the programs, if one was chosen.
    pub postgres_bin: Option<PathBuf>,
    /// Who is to run Postgres, if somebody was chosen.
    pub postgres_user: Option<String>,
    /// How branches are to be cloned.
    pub storage: StorageWish,
    /// The size of a storage image, if one is wanted.
    pub storage_image: Option<ImageSize>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// A start works; something could be better.
    Note,
    /// A start does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do, where there is something to do.
    pub advice: Option<String>,
}

impl Finding {
    fn fine(what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fine,
            what: what.into(),
            advice: None,
        }
    }

    fn note(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            what: what.into(),
            advice: Some(advice.into()),
        }
    }

    /// The words of a start's own error say what to do.
    fn problem(what: impl fmt::Display) -> Self {
        Self {
            severity: Severity::Problem,
            what: what.to_string(),
            advice: None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Fine => "ok",
            Severity::Note => "note",
            Severity::Problem => "PROBLEM",
        };
        write!(formatter, "{severity:<9}{}", self.what)?;
        match &self.advice {
            Some(advice) => write!(formatter, "\n{:<9}-> {advice}", ""),
            None => Ok(()),
        }
    }
}

/// Looks at the machine and the data folder as a start does.
#[must_use]
pub fn examine(checkup: &Checkup) -> Vec<Finding> {
    let mut findings = Vec::new();
    let major = machine::postgres(checkup, &mut findings);
    let user = machine::user(checkup, &mut findings);
    machine::address(checkup, &mut findings);
    folder::examine(checkup, major, user.as_ref(), &mut findings);
    findings
}
