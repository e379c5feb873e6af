//! The clock of an emulator under test.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;

use crate::folder::Folder;

/// A file that moves an emulator's clock.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// One in a test's folder; it shows the time until it is moved.
    #[must_use]
    pub fn in_folder(folder: &Folder) -> Self {
        Self {
            file: folder.join("clock"),
        }
    }

    /// The flags for the emulator.
    ///
    /// # Errors
    /// When the folder's name is no UTF-8.
    pub fn flags(&self) -> anyhow::Result<[&str; 2]> {
        let file = self.file.to_str().context("the folder's name is UTF-8")?;
        Ok(["--unsafe-test-clock", file])
    }

    /// Lets it show the time and so many seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    // The file's own time, which is the system's, not the emulator's.
    #[allow(clippy::disallowed_methods)]
    pub fn set(&self, seconds: i64) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(seconds.to_string().as_bytes())?;
        // The emulator tells by it what was before and what after. The file
        // system would give it in steps of some milliseconds.
        file.set_modified(SystemTime::now())?;
        // Renamed: the emulator never sees half of it.
        Ok(std::fs::rename(&new, &self.file)?)
    }
}
