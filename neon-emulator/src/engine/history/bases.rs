//! Base images. A folder's name is all that is known of one:
//! `00000000019A2B3C-1763706060123-0`, the LSN and the time, in milliseconds
//! since 1970, from which on points can be recovered with it, and by how much the
//! emulator's clock, which tests can move, was ahead of Postgres's then.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::engine::job_error::JobError;
use crate::lsn::Lsn;
use crate::storage::Storage;

/// What the name of a hidden image begins with: such a folder is none's.
const HIDDEN: &str = "hidden-";

/// An image.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) lsn: Lsn,
    pub(super) time: Timestamp,
    /// What Postgres's clock is behind.
    pub(super) ahead: SignedDuration,
    pub(super) folder: PathBuf,
}

/// Where a branch's images are.
pub(super) fn folder(history: &Path) -> PathBuf {
    history.join("bases")
}

/// The folder of an image.
pub(super) fn name(lsn: Lsn, time: Timestamp, ahead: SignedDuration) -> String {
    // Not before the image is whole.
    let (time, ahead) = (time.as_millisecond() + 1, ahead.as_millis());
    format!("{:016X}-{time}-{ahead}", lsn.0)
}

/// The images of a branch, oldest first. What is half made has another name.
pub(super) fn list(history: &Path) -> Result<Vec<Base>, JobError> {
    let mut bases: Vec<Base> = entries(history)?.into_iter().filter_map(parse).collect();
    bases.sort_by_key(|base| (base.time, base.lsn));
    Ok(bases)
}

/// Hides an image: no point is recovered with it, and it can be shown again.
pub(super) fn hide(base: &Base, storage: &Storage) -> Result<(), JobError> {
    let Some(name) = base.folder.file_name() else {
        return Ok(());
    };
    let mut hidden = OsString::from(HIDDEN);
    hidden.push(name);
    Ok(storage.rename(&base.folder, &base.folder.with_file_name(hidden))?)
}

/// Shows the hidden images.
pub(super) fn show_hidden(history: &Path, storage: &Storage) -> Result<(), JobError> {
    for (path, name) in hidden(history)? {
        storage.rename(&path, &path.with_file_name(name))?;
    }
    Ok(())
}

/// Removes the hidden images.
pub(super) fn remove_hidden(history: &Path, storage: &Storage) -> Result<(), JobError> {
    for (path, _) in hidden(history)? {
        storage.remove(&path)?;
    }
    Ok(())
}

/// The hidden images, with the names that they had.
fn hidden(history: &Path) -> Result<Vec<(PathBuf, String)>, JobError> {
    let names = entries(history)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_prefix(HIDDEN)?.to_owned();
        Some((path, name))
    });
    Ok(names.collect())
}

/// What lies in the folder of the images.
fn entries(history: &Path) -> Result<Vec<PathBuf>, JobError> {
    let path = folder(history);
    let failed = |source| JobError::Archive {
        path: path.clone(),
        source,
    };
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries
        .map(|entry| Ok(entry.map_err(failed)?.path()))
        .collect()
}

fn parse(folder: PathBuf) -> Option<Base> {
    let mut parts = folder.file_name()?.to_str()?.splitn(3, '-');
    let lsn = Lsn(u64::from_str_radix(parts.next()?, 16).ok()?);
    let time = Timestamp::from_millisecond(parts.next()?.parse().ok()?).ok()?;
    let ahead = SignedDuration::from_millis(parts.next()?.parse().ok()?);
    Some(Base {
        lsn,
        time,
        ahead,
        folder,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        assert!(list(root.path()).unwrap().is_empty());
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let images = [
            (Lsn(0xAB), time("2026-11-21T06:00:01.5Z")),
            (Lsn(0x2_0000_0000), time("2026-11-21T06:00:02Z")),
        ];
        let ahead = SignedDuration::from_secs(-3);
        for (lsn, time) in images.iter().rev() {
            fs::create_dir_all(folder(root.path()).join(name(*lsn, *time, ahead))).unwrap();
        }
        fs::create_dir(folder(root.path()).join("new")).unwrap();
        let found: Vec<_> = list(root.path())
            .unwrap()
            .iter()
            .map(|base| {
                assert_eq!(base.ahead, ahead);
                (base.lsn, base.time)
            })
            .collect();
        let later = images.map(|(lsn, time)| (lsn, time + SignedDuration::from_millis(1)));
        assert_eq!(found, later);
    }
}
