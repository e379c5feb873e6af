//! Why a folder was not made, cloned, renamed or removed.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What was attempted on what.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    #[error("the file system of {} ({file_system}) is full: could not {attempt} {}; free space there, or choose another folder with --data", root.display(), path.display())]
    Full {
        attempt: &'static str,
        path: PathBuf,
        root: PathBuf,
        file_system: String,
        #[source]
        source: io::Error,
    },
    #[error("could not {attempt} {}", path.display())]
    Failed {
        attempt: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not rename {} to {}", from.display(), to.display())]
    Rename {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl StorageError {
    pub(super) fn new(
        attempt: &'static str,
        path: &Path,
        root: &Path,
        file_system: &str,
        source: io::Error,
    ) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full {
                attempt,
                path,
                root: root.to_owned(),
                file_system: file_system.to_owned(),
                source,
            },
            _ => Self::Failed {
                attempt,
                path,
                source,
            },
        }
    }
}
