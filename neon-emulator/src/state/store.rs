//! The file that holds the state.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::records::{State, first_number};
use crate::storage::Durability;

/// Of the format of the file. 2 has API keys, a project's deletion, restores,
/// snapshots; 3 has ports of poolers; 4 has changes that failed; 5 has endpoints
/// that move.
const VERSION: u32 = 5;
/// The oldest format that can be read: what it lacks has defaults.
const VERSION_MIN: u32 = 1;
/// The state and its file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    durability: Durability,
    state: Mutex<State>,
}

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("could not read the state {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the state {} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the state {} is of format {found}, this emulator knows {VERSION}", path.display())]
    OtherFormat { path: PathBuf, found: u32 },
    #[error("could not write the state {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Reads the file; one that is missing is an empty state.
    pub(crate) fn open(path: PathBuf, durability: Durability) -> Result<Self, StoreError> {
        let mut state: State = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State {
                version: VERSION,
                projects: BTreeMap::new(),
                next_database_id: 1,
                first_project: None,
                api_keys: BTreeMap::new(),
                next_api_key_id: first_number(),
                created_at: crate::time::now(),
            },
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        if !(VERSION_MIN..=VERSION).contains(&state.version) {
            return Err(StoreError::OtherFormat {
                path,
                found: state.version,
            });
        }
        // An older emulator would lose what it does not know.
        state.version = VERSION;
        Ok(Self {
            path,
            durability,
            state: Mutex::new(state),
        })
    }

    /// Writes the state as it is: a new folder has its file from the start.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        self.write(&self.lock())
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and writes it. When `change` fails, or the file cannot
    /// be written, nothing has changed.
    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let mut state = self.lock();
        let mut changed = state.clone();
        let result = change(&mut changed)?;
        self.write(&changed)?;
        *state = changed;
        Ok(result)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left either the old state or the new one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &State) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write {
            path: self.path.clone(),
            source,
        };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let bytes = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
        // Renamed over the old one, whole. One name: what a kill leaves is
        // overwritten by the next change.
        let new = folder.join("state.json.new");
        fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                match self.durability {
                    Durability::Process => Ok(()),
                    Durability::Machine => file.sync_all(),
                }
            })
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| match self.durability {
                Durability::Process => Ok(()),
                Durability::Machine => fs::File::open(folder)?.sync_all(),
            })
            .map_err(failed)
    }
}
