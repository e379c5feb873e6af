//! The folders of a restore, and what is done with them. Each step can be done
//! again, and undone.

use std::path::{Path, PathBuf};

use crate::engine::job_error::JobError;
use crate::storage::Storage;

/// The folders that a restore works with.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// Where the branch's data are.
    pub(super) branch: PathBuf,
    /// Where the clone is made.
    pub(super) new: PathBuf,
    /// Where the old data go.
    pub(super) old: PathBuf,
    /// The old data are a branch's from then on.
    pub(super) keep_old: bool,
    pub(super) storage: Storage,
}

impl Folders {
    /// Whatever there is beside the branch itself.
    pub(super) fn remove_beside(&self) -> Result<(), JobError> {
        self.remove(&self.new)?;
        self.remove(&self.old)
    }

    /// The clone is whole: it waits, or is in place already.
    pub(super) fn is_cloned(&self) -> bool {
        self.new.exists() || self.old.exists()
    }

    /// An undoing that was cut off leaves the old data alone.
    pub(super) fn take_back_if_lost(&self) -> Result<(), JobError> {
        if !self.branch.exists() && !self.new.exists() && self.old.exists() {
            self.rename(&self.old, &self.branch)?;
        }
        Ok(())
    }

    pub(super) fn exchange(&self) -> Result<(), JobError> {
        if self.new.exists() {
            if self.branch.exists() {
                self.remove(&self.old)?;
                self.rename(&self.branch, &self.old)?;
            }
            self.rename(&self.new, &self.branch)?;
        }
        Ok(())
    }

    pub(super) fn undo(&self) -> Result<(), JobError> {
        let is_exchanged = !self.new.exists() || !self.branch.exists();
        if is_exchanged && self.old.exists() {
            self.remove(&self.branch)?;
            self.rename(&self.old, &self.branch)?;
        }
        self.remove(&self.new)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), JobError> {
        Ok(self.storage.remove(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), JobError> {
        Ok(self.storage.rename(from, to)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    /// Each folder holds a file that says whose data they are.
    fn folders(root: &Path, keep_old: bool) -> Folders {
        let folders = Folders {
            branch: root.join("br"),
            new: root.join("br.new"),
            old: root.join(if keep_old { "kept" } else { "br.old" }),
            keep_old,
            storage: Storage::plain(root),
        };
        for (folder, data) in [(&folders.branch, "before"), (&folders.new, "after")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("data"), data).unwrap();
        }
        folders
    }

    fn data(folder: &Path) -> Option<String> {
        fs::read_to_string(folder.join("data")).ok()
    }

    /// Cut off after any of its steps, an exchange that is done again, or
    /// undone, ends as one that was not cut off.
    #[test]
    fn an_exchange_can_be_cut_off_anywhere() {
        for keep_old in [false, true] {
            for done in 0..3 {
                for undo in [false, true] {
                    let root = tempfile::tempdir().unwrap();
                    let folders = folders(root.path(), keep_old);
                    if done > 0 {
                        folders.rename(&folders.branch, &folders.old).unwrap();
                    }
                    if done > 1 {
                        folders.rename(&folders.new, &folders.branch).unwrap();
                    }
                    let context = format!("keep {keep_old}, done {done}, undo {undo}");
                    if undo {
                        folders.undo().unwrap();
                        assert_eq!(data(&folders.branch).unwrap(), "before", "{context}");
                        assert_eq!(data(&folders.old), None, "{context}");
                    } else {
                        folders.take_back_if_lost().unwrap();
                        assert!(folders.is_cloned(), "{context}");
                        folders.exchange().unwrap();
                        assert_eq!(data(&folders.branch).unwrap(), "after", "{context}");
                        // Until the restore is recorded as done.
                        assert_eq!(data(&folders.old).unwrap(), "before", "{context}");
                    }
                    assert_eq!(data(&folders.new), None, "{context}");
                }
            }
        }
    }

    #[test]
    fn an_undoing_that_was_cut_off_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path(), false);
        folders.rename(&folders.branch, &folders.old).unwrap();
        folders.remove(&folders.new).unwrap();
        folders.take_back_if_lost().unwrap();
        assert_eq!(data(&folders.branch).unwrap(), "before");
    }
}
