//! A folder with all that is in it, copied file by file by several threads.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::progress::Progress;
use super::{CloneMethod, file};
use crate::postgres::ServerUser;

/// Copies of small files are bound by system calls, not by the disk: a fresh
/// branch is 1,300 of them.
const COPY_THREADS_MAX: usize = 4;

/// `st_blocks` counts in these.
const BLOCK_BYTES: u64 = 512;

/// What of a folder is no part of its clone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection {
    /// Names of files, wherever they are.
    pub(crate) left_out: fn(&str) -> bool,
    /// Folders that are there and empty.
    pub(crate) empty: &'static [&'static str],
}

/// Where it went wrong, and why.
type Failure = (PathBuf, io::Error);

/// Copies what is selected into a folder that is there.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    selection: &Selection,
    method: CloneMethod,
    user: &ServerUser,
) -> Result<(), Failure> {
    let mut tree = Tree::default();
    tree.add(from, Path::new(""), selection)?;
    for folder in selection.empty {
        let folder = Path::new(folder);
        if !tree.folders.iter().any(|known| known == folder) {
            tree.folders.push(folder.to_owned());
        }
    }
    tree.copy(from, to, method, user)
}

/// Removes from a snapshot what is not selected. Files that are left out below
/// its folders stay: who clones with snapshots has to bear them.
pub(super) fn prune(root: &Path, selection: &Selection) -> Result<(), Failure> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    for entry in fs::read_dir(root).map_err(at(root))? {
        let entry = entry.map_err(at(root))?;
        let path = entry.path();
        let is_left_out = entry.file_name().to_str().is_some_and(selection.left_out);
        if is_left_out && !entry.file_type().map_err(at(&path))?.is_dir() {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    for folder in selection.empty {
        let folder = root.join(folder);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(at(&folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(at(&folder))?;
            let path = entry.path();
            if !entry.file_type().map_err(at(&path))?.is_dir() {
                fs::remove_file(&path).map_err(at(&path))?;
            } else if !is_wanted_empty(root, &path, selection) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
    }
    Ok(())
}

fn is_wanted_empty(root: &Path, path: &Path, selection: &Selection) -> bool {
    let empty = |folder: &&'static str| root.join(folder) == path;
    selection.empty.iter().any(empty)
}

/// What is to be copied, as paths below the folder.
#[derive(Default)]
struct Tree {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Tree {
    /// Adds what is in a folder. Below a running server files come and go: one
    /// that is gone when its turn comes was dropped.
    fn add(&mut self, root: &Path, folder: &Path, selection: &Selection) -> Result<(), Failure> {
        let here = root.join(folder);
        let entries = match fs::read_dir(&here) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| (here.clone(), error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| (here.clone(), error))?;
            let name = entry.file_name();
            let path = folder.join(&name);
            let kind = entry
                .file_type()
                .map_err(|error| (root.join(&path), error))?;
            if name.to_str().is_some_and(selection.left_out) {
                continue;
            }
            if kind.is_dir() {
                let is_empty = selection.empty.iter().any(|empty| path == Path::new(empty));
                self.folders.push(path.clone());
                if !is_empty {
                    self.add(root, &path, selection)?;
                }
            } else if kind.is_file() {
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// What is to be copied, as far as that takes time. Files that go meanwhile
    /// are none.
    fn bytes(&self, from: &Path, method: CloneMethod) -> u64 {
        match method {
            CloneMethod::Btrfs | CloneMethod::Reflink => 0,
            CloneMethod::Copy => {
                let files = self.files.iter();
                let files = files.filter_map(|name| fs::metadata(from.join(name)).ok());
                // Holes cost nothing.
                let bytes = |file: fs::Metadata| file.len().min(file.blocks() * BLOCK_BYTES);
                files.map(bytes).sum()
            }
        }
    }

    fn copy(
        &self,
        from: &Path,
        to: &Path,
        method: CloneMethod,
        user: &ServerUser,
    ) -> Result<(), Failure> {
        for folder in &self.folders {
            let path = to.join(folder);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made.and_then(|()| user.own(&path)),
            }
            .map_err(|error| (path, error))?;
        }
        let progress = Progress::begin(to, self.bytes(from, method));
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let tell = |bytes| progress.add(bytes);
        let copy_file = |from: &Path, to: &Path| file::copy(from, to, method, user, &tell);
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(COPY_THREADS_MAX);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(name) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let source = from.join(name);
                        let copied = match copy_file(&source, &to.join(name)) {
                            // Gone since, and only the source can be.
                            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                            copied => copied,
                        };
                        if let Err(error) = copied {
                            // The others stop at their next file.
                            next.store(self.files.len(), Ordering::Relaxed);
                            if let Ok(mut failure) = failure.lock() {
                                failure.get_or_insert((source, error));
                            }
                        }
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    }
}
