//! The emulator's clock, which tests can move.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How often a wait looks at the offset file.
const FILE_POLL_MS: u64 = 100;
/// The longest that a wait sleeps at once: the system's clock may be set.
const NAP_SECONDS_MAX: i64 = 60;

/// The clock is the process's: so is its file.
static OFFSET: RwLock<Option<OffsetFile>> = RwLock::new(None);

#[derive(Debug)]
struct OffsetFile {
    path: PathBuf,
    /// What stands where the file holds no number.
    last_good: SignedDuration,
    /// What stood before the file was last written, as far as that was seen.
    before: SignedDuration,
}

/// Moves the clock by the seconds that a file holds: a signed number, decimals
/// allowed, read again each time the time is asked for. A file that is missing
/// or empty stands for 0, one that holds something else for what it held
/// before.
///
/// # Errors
/// When the file is there and cannot be read as text.
pub(crate) fn move_by_file(path: Option<PathBuf>) -> io::Result<()> {
    let file = match path {
        None => None,
        Some(path) => Some(OffsetFile {
            last_good: read(&path)?.unwrap_or_default(),
            before: SignedDuration::ZERO,
            path,
        }),
    };
    *OFFSET.write().unwrap_or_else(PoisonError::into_inner) = file;
    Ok(())
}

/// The time now. The one place that asks the system.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(offset()).unwrap_or(now)
}

/// What the clock showed when the system's showed this: others, Postgres for
/// one, take their times from the system.
pub(crate) fn at_system_time(time: Timestamp) -> Timestamp {
    let current = offset();
    let file = OFFSET.read().unwrap_or_else(PoisonError::into_inner);
    let Some(file) = &*file else { return time };
    let written = fs::metadata(&file.path).and_then(|metadata| metadata.modified());
    let written = written
        .ok()
        .and_then(|written| Timestamp::try_from(written).ok());
    let offset = offset_at(time, written, file.before, current);
    time.checked_add(offset).unwrap_or(time)
}

/// What stood in the file at a time: from the moment on in which it was written,
/// what stands there now.
fn offset_at(
    time: Timestamp,
    written: Option<Timestamp>,
    before: SignedDuration,
    current: SignedDuration,
) -> SignedDuration {
    match written {
        Some(written) if time < written => before,
        _ => current,
    }
}

/// Waits until the clock shows this time, moved or not.
pub(crate) async fn sleep_until(time: Timestamp) {
    loop {
        let left = time.duration_since(now());
        if !left.is_positive() {
            return;
        }
        let is_movable = OFFSET
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        let nap = match is_movable {
            true => SignedDuration::from_millis(FILE_POLL_MS.cast_signed()),
            false => SignedDuration::from_secs(NAP_SECONDS_MAX),
        };
        tokio::time::sleep(Duration::try_from(left.min(nap)).unwrap_or_default()).await;
    }
}

/// By how much [`now`] is ahead of the system's clock, which is Postgres's.
pub(crate) fn ahead() -> SignedDuration {
    offset()
}

fn offset() -> SignedDuration {
    let path = match &*OFFSET.read().unwrap_or_else(PoisonError::into_inner) {
        None => return SignedDuration::ZERO,
        Some(file) => file.path.clone(),
    };
    let found = read(&path).ok().flatten();
    let mut file = OFFSET.write().unwrap_or_else(PoisonError::into_inner);
    let Some(file) = &mut *file else {
        return SignedDuration::ZERO;
    };
    if let Some(found) = found
        && found != file.last_good
    {
        file.before = file.last_good;
        file.last_good = found;
    }
    file.last_good
}

/// `None`: it holds no number.
fn read(path: &Path) -> io::Result<Option<SignedDuration>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    Ok(match text.trim() {
        "" => Some(SignedDuration::ZERO),
        number => number
            .parse()
            .ok()
            .and_then(|seconds: f64| SignedDuration::try_from_secs_f64(seconds).ok()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_by_what_stood_in_the_file_then() {
        let written: Timestamp = "2026-11-21T06:00:00Z".parse().unwrap();
        let [before, current] = [1, 2].map(SignedDuration::from_secs);
        let at = |nanoseconds| {
            let time = written + SignedDuration::from_nanos(nanoseconds);
            offset_at(time, Some(written), before, current)
        };
        assert_eq!(at(-1), before);
        assert_eq!(at(0), current);
        assert_eq!(at(1), current);
        assert_eq!(offset_at(written, None, before, current), current);
    }
}
