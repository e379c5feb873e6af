//! Base images. A folder's name is all that is known of one:
//! `00000000019A2B3C-1763706060123-0`, the LSN and the time, in milliseconds
//! since 1970, from which on points can be recovered with it, and by how much the
//! emulator's clock, which tests can move, was ahead of Postgres's then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::engine::job_error::JobError;
use crate::lsn::Lsn;

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
    let path = folder(history);
    let failed = |source| JobError::Archive {
        path: path.clone(),
        source,
    };
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut bases = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let folder = entry.path();
        bases.extend(parse(folder));
    }
    bases.sort_by_key(|base| (base.time, base.lsn));
    Ok(bases)
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
