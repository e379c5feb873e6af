//! How much there is of a history: when an image is to be made, and which images,
//! and which WAL, are not needed.

use std::path::Path;

use jiff::SignedDuration;
use tracing::warn;

use super::{Base, archive};
use crate::engine::chain;
use crate::engine::job_error::JobError;
use crate::storage::Storage;
use crate::time::now;

/// What is to be replayed at most, on a file system where an image costs little.
const IMAGE_WAL_BYTES: u64 = 64 << 20;
/// The same for time, where something was written.
const IMAGE_MINUTES: i64 = 5;
/// An image itself makes the branch write a segment or two.
const IDLE_WAL_BYTES: u64 = 3 << 20;
/// Of one branch. Beyond it the second oldest goes: a point there then has more
/// to replay.
const IMAGES_MAX: usize = 500;

/// Whether an image is to be made: there is none, or what was written since the
/// last would take long to replay. A copy is not worth it before it is smaller
/// than that; but without a later image no WAL can go.
pub(super) fn is_due(
    history: &Path,
    last: Option<&Base>,
    copy_bytes: u64,
    wal_bytes_max: u64,
) -> Result<bool, JobError> {
    let Some(last) = last else { return Ok(true) };
    let segments = archive::segments(&history.join("wal"))?;
    let timeline = segments.iter().map(|segment| segment.timeline).max();
    let written = segments
        .iter()
        .filter(|segment| Some(segment.timeline) == timeline)
        .map(|segment| segment.end().0.saturating_sub(last.lsn.0))
        .max()
        .unwrap_or_default();
    let is_old = now().duration_since(last.time) > SignedDuration::from_mins(IMAGE_MINUTES);
    Ok(match copy_bytes {
        0 => written > IMAGE_WAL_BYTES || (is_old && written > IDLE_WAL_BYTES),
        bytes => written > IMAGE_WAL_BYTES.max(bytes),
    } || written > wal_bytes_max / 2)
}

/// Forgets images that no point of the window needs: all before the last that is
/// older than the window, and those whose WAL is more than there may be, which
/// shortens the window.
pub(super) fn prune(
    storage: &Storage,
    history: &Path,
    bases: &[Base],
    window: jiff::Timestamp,
    wal_bytes_max: u64,
) -> Result<(), JobError> {
    let archive = history.join("wal");
    let segments = archive::segments(&archive)?;
    let wal_bytes_from =
        |base: &Base| archive::bytes(segments.iter().filter(|segment| segment.end() >= base.lsn));
    let in_window = bases
        .iter()
        .rposition(|base| base.time <= window)
        .unwrap_or(0);
    let mut kept = in_window;
    while kept + 1 < bases.len() && wal_bytes_from(&bases[kept]) > wal_bytes_max {
        kept += 1;
    }
    for base in &bases[..kept] {
        if let Err(error) = storage.remove(&base.folder) {
            warn!(error = chain(&error), "an image that is not needed is left");
        }
    }
    if kept > in_window {
        warn!(
            history = %history.display(),
            begin = %bases[kept].time,
            "the WAL of a history is more than {} MB (--history-wal-megabytes-max): it begins later than the project asks for",
            wal_bytes_max >> 20,
        );
    }
    if bases.len() - kept > IMAGES_MAX
        && let Some(second) = bases.get(kept + 1)
        && let Err(error) = storage.remove(&second.folder)
    {
        warn!(error = chain(&error), "an image too many is left");
    }
    match bases.get(kept) {
        Some(oldest) if kept > 0 => archive::prune(&archive, oldest.lsn),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::engine::history::bases;
    use crate::lsn::Lsn;

    const MB: u64 = 1 << 20;

    /// Images at these positions, each a minute after the one before, and a
    /// segment for each MB up to the last.
    fn history(images_mb: &[u64], end_mb: u64) -> (tempfile::TempDir, Vec<Base>, Timestamp) {
        let root = tempfile::tempdir().unwrap();
        let begin: Timestamp = "2026-11-21T06:00:00Z".parse().unwrap();
        let wal = root.path().join("wal");
        std::fs::create_dir(&wal).unwrap();
        for segment in 1..end_mb {
            let name = format!("{:08X}{:08X}{segment:08X}", 1, 0);
            std::fs::write(wal.join(name), "").unwrap();
        }
        for (minute, mb) in (0..).zip(images_mb) {
            let time = begin + SignedDuration::from_mins(minute);
            let name = bases::name(Lsn(mb * MB), time, SignedDuration::ZERO);
            std::fs::create_dir_all(bases::folder(root.path()).join(name)).unwrap();
        }
        let bases = bases::list(root.path()).unwrap();
        (root, bases, begin)
    }

    fn left(root: &Path) -> (Vec<u64>, usize) {
        let images = bases::list(root).unwrap();
        let segments = archive::segments(&root.join("wal")).unwrap();
        let images = images.iter().map(|base| base.lsn.0 / MB).collect();
        (images, segments.len())
    }

    #[test]
    fn what_the_window_does_not_need_goes() {
        let (root, bases, begin) = history(&[2, 20, 40], 50);
        let storage = Storage::plain(root.path());
        let prune = |minutes: i64, mb| {
            let window = begin + SignedDuration::from_secs(60 * minutes + 1);
            prune(&storage, root.path(), &bases, window, mb * MB).unwrap();
        };
        prune(-1, 1_000);
        assert_eq!(left(root.path()), (vec![2, 20, 40], 49));
        prune(1, 1_000);
        assert_eq!(left(root.path()), (vec![20, 40], 31));
    }

    #[test]
    fn too_much_wal_shortens_the_window() {
        let (root, bases, begin) = history(&[2, 20, 40], 50);
        let storage = Storage::plain(root.path());
        let window = begin - SignedDuration::from_hours(1);
        prune(&storage, root.path(), &bases, window, 49 * MB).unwrap();
        assert_eq!(left(root.path()), (vec![2, 20, 40], 49));
        prune(&storage, root.path(), &bases, window, 31 * MB).unwrap();
        assert_eq!(left(root.path()), (vec![20, 40], 31));
        // The last image stays, whatever its WAL.
        let bases = bases::list(root.path()).unwrap();
        prune(&storage, root.path(), &bases, window, MB).unwrap();
        assert_eq!(left(root.path()), (vec![40], 11));
        // And another is made in time.
        let last = bases.last();
        assert!(!is_due(root.path(), last, 1_000 * MB, 21 * MB).unwrap());
        assert!(is_due(root.path(), last, 1_000 * MB, 19 * MB).unwrap());
    }
}
