//! How far a copy has come: told in the log where it takes its time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::info;

/// How often it is told.
const TOLD_SECONDS: u64 = 2;

/// A copy that goes on, by several threads.
#[derive(Debug)]
pub(super) struct Progress {
    to: PathBuf,
    bytes: u64,
    copied: AtomicU64,
    begun: Instant,
    /// How long it had taken when it was told last.
    told_seconds: AtomicU64,
}

impl Progress {
    /// Of so many bytes to this folder.
    pub(super) fn begin(to: &Path, bytes: u64) -> Self {
        Self {
            to: to.to_owned(),
            bytes,
            copied: AtomicU64::new(0),
            begun: Instant::now(),
            told_seconds: AtomicU64::new(0),
        }
    }

    /// So many more are copied.
    pub(super) fn add(&self, bytes: u64) {
        if let Some(percent) = self.due(bytes, self.begun.elapsed().as_secs()) {
            let (to, megabytes) = (self.to.display(), self.bytes >> 20);
            info!(%to, percent, megabytes, "copying");
        }
    }

    /// How many percent there are, when that is to be told.
    fn due(&self, bytes: u64, seconds: u64) -> Option<u64> {
        let copied = self.copied.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let told = self.told_seconds.load(Ordering::Relaxed);
        if seconds < told + TOLD_SECONDS {
            return None;
        }
        // One of the threads.
        self.told_seconds
            .compare_exchange(told, seconds, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        // The source may have grown.
        Some((copied.saturating_mul(100) / self.bytes.max(1)).min(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_copy_is_told_and_a_fast_one_is_not() {
        let progress = Progress::begin(Path::new("branch"), 1_000);
        assert_eq!(progress.due(300, 0), None);
        assert_eq!(progress.due(100, TOLD_SECONDS - 1), None);
        assert_eq!(progress.due(20, TOLD_SECONDS), Some(42));
        assert_eq!(progress.due(80, TOLD_SECONDS + 1), None);
        assert_eq!(progress.due(100, 2 * TOLD_SECONDS), Some(60));
        assert_eq!(progress.due(5_000, 60), Some(99));
        let nothing = Progress::begin(Path::new("branch"), 0);
        assert_eq!(nothing.due(0, 60), Some(0));
    }
}
