//! The archive of a branch's WAL, as files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Lsn, bases};
use crate::engine::job_error::JobError;
use crate::storage::Storage;

/// As `Cluster::create` asks initdb for.
const SEGMENT_BYTES: u64 = 1 << 20;
/// In hexadecimal digits: 8 of the timeline, then 16 of the position in segments.
const SEGMENT_NAME_BYTES: usize = 24;
/// The folder of what [`adopt`] has put into the archive, by second names.
const ADOPTED: &str = "adopted";

/// A segment: its file's name, timeline and first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) timeline: u32,
    pub(super) begin: Lsn,
}

impl Segment {
    fn parse(name: &str) -> Option<Self> {
        let is_segment =
            name.len() == SEGMENT_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_segment {
            return None;
        }
        let part = |range: std::ops::Range<usize>| u64::from_str_radix(&name[range], 16).ok();
        Some(Self {
            name: name.to_owned(),
            timeline: part(0..8)?.try_into().ok()?,
            // The last part counts the segments in 4 GB.
            begin: Lsn((part(8..16)? << 32) + part(16..24)? * SEGMENT_BYTES),
        })
    }

    pub(super) fn end(&self) -> Lsn {
        Lsn(self.begin.0 + SEGMENT_BYTES)
    }
}

/// The segments of a folder, in no order.
pub(super) fn segments(folder: &Path) -> Result<Vec<Segment>, JobError> {
    Ok(names(folder)?
        .iter()
        .filter_map(|name| Segment::parse(name))
        .collect())
}

/// How much these are.
pub(super) fn bytes<'a>(segments: impl Iterator<Item = &'a Segment>) -> u64 {
    segments.map(|_| SEGMENT_BYTES).sum()
}

/// Puts into a new branch's folder what the source's archive does not have yet:
/// its latest segments, and its timelines.
pub(super) fn copy_tail(
    source: &Path,
    archive: &Path,
    to: &Path,
    storage: &Storage,
) -> Result<(), JobError> {
    let (source, to) = (source.join("pg_wal"), to.join("pg_wal"));
    for name in names(&source)? {
        let is_wanted = Segment::parse(&name).is_some() || name.ends_with(".history");
        // One that goes meanwhile is in the archive since.
        if is_wanted && !archive.join(&name).exists() {
            storage.clone_file(&source, &to, Path::new(&name))?;
        }
    }
    Ok(())
}

/// Makes a branch that is restored to its own past go on with its archive: what
/// the new data have of earlier timelines is put there, and images from after the
/// point are hidden, since they are on none of the new data's timelines. Can be
/// done again, and undone until it is [settled](settle).
pub(super) fn adopt(
    new: &Path,
    history: &Path,
    point: Lsn,
    storage: &Storage,
) -> Result<(), JobError> {
    let (wal, archive, adopted) = (
        new.join("pg_wal"),
        history.join("wal"),
        history.join(ADOPTED),
    );
    for folder in [&archive, &adopted] {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let names_of_new = names(&wal)?;
    let timeline = names_of_new
        .iter()
        .filter_map(|name| name.strip_suffix(".history"))
        .filter_map(|timeline| u32::from_str_radix(timeline, 16).ok())
        .max()
        .unwrap_or(1);
    for name in names_of_new {
        let is_earlier = Segment::parse(&name).is_some_and(|segment| segment.timeline < timeline);
        if (is_earlier || name.ends_with(".history")) && !archive.join(&name).exists() {
            storage.clone_file(&wal, &adopted, Path::new(&name))?;
        }
    }
    for name in names(&adopted)? {
        let to = archive.join(&name);
        match fs::hard_link(adopted.join(&name), &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked.map_err(at(&to))?,
        }
    }
    for base in bases::list(history)? {
        if base.lsn > point {
            bases::hide(&base, storage)?;
        }
    }
    Ok(storage.settle()?)
}

/// Undoes [`adopt`], whole or half done. The branch goes on writing segments of
/// the names that were put there.
pub(super) fn disown(history: &Path, storage: &Storage) -> Result<(), JobError> {
    let (archive, adopted) = (history.join("wal"), history.join(ADOPTED));
    for name in names(&adopted)? {
        let path = archive.join(&name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(at(&path))?,
        }
    }
    bases::show_hidden(history, storage)?;
    Ok(storage.remove(&adopted)?)
}

/// Forgets what [`disown`] would need.
pub(super) fn settle(history: &Path, storage: &Storage) -> Result<(), JobError> {
    storage.remove(&history.join(ADOPTED))?;
    bases::remove_hidden(history, storage)
}

/// Removes what no image needs: segments that end before the oldest begins.
/// Timelines stay.
pub(super) fn prune(archive: &Path, oldest: Lsn) -> Result<(), JobError> {
    for segment in segments(archive)? {
        // The image's own WAL is in its folder, up to its LSN.
        if segment.end() < oldest {
            let path = archive.join(&segment.name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JobError::Archive { path, source });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where the newest timeline of a recovered folder begins: where it was told to
/// stop. The last line of a timeline's file ends the one before it.
pub(super) fn switch_point(data: &Path) -> Result<Lsn, JobError> {
    let wal = data.join("pg_wal");
    let newest = names(&wal)?
        .into_iter()
        .filter(|name| name.ends_with(".history"))
        .max()
        .ok_or_else(|| JobError::History("the recovered branch has no timeline".to_owned()))?;
    let path = wal.join(newest);
    let text = fs::read_to_string(&path).map_err(|source| JobError::Archive {
        path: path.clone(),
        source,
    })?;
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|lsn| lsn.parse().ok())
        .ok_or_else(|| JobError::History(format!("{} is malformed", path.display())))
}

fn names(folder: &Path) -> Result<Vec<String>, JobError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(at(folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JobError {
    let path = PathBuf::from(path);
    |source| JobError::Archive { path, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What of a restore to the branch's own past is undone leaves the history as
    /// it was, done once or twice; what is settled cannot come back.
    #[test]
    fn an_adoption_can_be_undone_until_it_is_settled() {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::plain(root.path());
        let (new, history) = (root.path().join("new"), root.path().join("history"));
        let (wal, archive) = (new.join("pg_wal"), history.join("wal"));
        for folder in [&wal, &archive] {
            fs::create_dir_all(folder).unwrap();
        }
        let (archived, tail) = ("000000010000000000000001", "000000010000000000000002");
        fs::write(archive.join(archived), "whole").unwrap();
        for name in [
            archived,
            tail,
            "00000002.history",
            "000000020000000000000002",
        ] {
            fs::write(wal.join(name), "new").unwrap();
        }
        let time = "2026-11-21T06:00:01Z".parse().unwrap();
        for lsn in [0x10_0000, 0x20_0000] {
            let name = bases::name(Lsn(lsn), time, jiff::SignedDuration::ZERO);
            fs::create_dir_all(bases::folder(&history).join(name)).unwrap();
        }
        let sorted = |folder: &Path| {
            let mut names = names(folder).unwrap();
            names.sort();
            names
        };
        let before = sorted(&bases::folder(&history));
        for times in 1..=2 {
            for _ in 0..times {
                adopt(&new, &history, Lsn(0x18_0000), &storage).unwrap();
            }
            assert_eq!(sorted(&archive), [archived, tail, "00000002.history"]);
            assert_eq!(bases::list(&history).unwrap().len(), 1);
            disown(&history, &storage).unwrap();
            assert_eq!(sorted(&archive), [archived]);
            assert_eq!(sorted(&bases::folder(&history)), before);
        }
        adopt(&new, &history, Lsn(0x18_0000), &storage).unwrap();
        settle(&history, &storage).unwrap();
        disown(&history, &storage).unwrap();
        assert_eq!(sorted(&archive), [archived, tail, "00000002.history"]);
        assert_eq!(fs::read_to_string(archive.join(archived)).unwrap(), "whole");
        assert_eq!(sorted(&bases::folder(&history)), before[..1]);
    }

    #[test]
    fn segments_are_placed_by_their_names() {
        let segment = Segment::parse("000000020000000100000ABC").unwrap();
        assert_eq!(segment.timeline, 2);
        assert_eq!(segment.begin, "1/ABC00000".parse().unwrap());
        assert_eq!(segment.end(), "1/ABD00000".parse().unwrap());
        for name in [
            "00000002.history",
            "000000010000000000000002.00000028.backup",
            "000000010000000000000002.partial",
            "archive_status",
            "00000001000000000000000G",
        ] {
            assert_eq!(Segment::parse(name), None, "{name}");
        }
    }
}
