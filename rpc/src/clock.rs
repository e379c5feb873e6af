//! Where the time comes from: the system, or, in tests, the system plus an
//! offset that a file holds.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// How often a wait on a clock with an offset file looks at the file, in
/// milliseconds: a test that moves the clock does not want to wait.
const FILE_POLL_MS: u64 = 20;

/// Tells the time. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset: Option<Arc<OffsetFile>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The system's clock moved by the seconds that the file at `path` holds: a
    /// signed number, decimals allowed, read again each time the time is asked
    /// for. A file that is missing or empty stands for 0, one that holds
    /// something else for what it held before. Write it by renaming, so that no
    /// one reads half a number.
    ///
    /// # Errors
    /// When `path` is there and cannot be read as text.
    pub fn with_offset_file(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = OffsetFile {
            path: path.as_ref().to_path_buf(),
            last_good: Mutex::new(0.0),
        };
        read_if_there(&file.path)?;
        Ok(Self {
            offset: Some(Arc::new(file)),
        })
    }

    /// The time now.
    #[allow(clippy::disallowed_methods, reason = "this is where time comes in")]
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        match &self.offset {
            Some(file) => moved(now, file.seconds()),
            None => now,
        }
    }

    /// Waits until this clock shows `time` or later. Notices a clock that was
    /// moved by its file within some milliseconds.
    pub async fn sleep_until(&self, time: SystemTime) {
        while let Ok(left) = time.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            let nap = match self.offset {
                Some(_) => left.min(Duration::from_millis(FILE_POLL_MS)),
                None => left,
            };
            tokio::time::sleep(nap).await;
        }
    }
}

/// The flag of every server here that moves its clock.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClockArgs {
    /// For tests only: add the seconds that FILE holds to the time.
    #[arg(long, value_name = "FILE", hide = true)]
    pub unsafe_test_clock: Option<PathBuf>,
}

impl ClockArgs {
    /// The clock that was asked for. One that a file moves is announced in the
    /// log: leases end when the file says so.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn clock(&self) -> io::Result<Clock> {
        let Some(path) = &self.unsafe_test_clock else {
            return Ok(Clock::system());
        };
        let clock = Clock::with_offset_file(path)?;
        tracing::warn!(
            file = %path.display(),
            "UNSAFE: --unsafe-test-clock moves the time by what this file says; it is for tests only"
        );
        Ok(clock)
    }
}

#[derive(Debug)]
struct OffsetFile {
    path: PathBuf,
    last_good: Mutex<f64>,
}

impl OffsetFile {
    fn seconds(&self) -> f64 {
        let mut last_good = self
            .last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Ok(text) = read_if_there(&self.path) {
            match text.trim() {
                "" => *last_good = 0.0,
                number => {
                    if let Some(seconds) = number.parse().ok().filter(|s: &f64| s.is_finite()) {
                        *last_good = seconds;
                    }
                }
            }
        }
        *last_good
    }
}

fn read_if_there(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

/// `time` moved by `seconds`; unmoved where that is no time.
fn moved(time: SystemTime, seconds: f64) -> SystemTime {
    let Ok(by) = Duration::try_from_secs_f64(seconds.abs()) else {
        return time;
    };
    let there = if seconds < 0.0 {
        time.checked_sub(by)
    } else {
        time.checked_add(by)
    };
    there.unwrap_or(time)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "compares with the system's time")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn moves_when_the_file_changes() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("offset");
        let clock = Clock::with_offset_file(&path)?;
        let near = |time: SystemTime| {
            let now = clock.now();
            let apart = now.duration_since(time).unwrap_or_else(|e| e.duration());
            apart < Duration::from_secs(60)
        };
        assert!(near(SystemTime::now()), "a missing file moves nothing");
        std::fs::write(&path, "3600.5\n")?;
        assert!(near(SystemTime::now() + HOUR));
        std::fs::write(&path, "-3600")?;
        assert!(near(SystemTime::now() - HOUR));
        std::fs::write(&path, "noon")?;
        assert!(near(SystemTime::now() - HOUR), "nonsense changes nothing");
        std::fs::write(&path, "1e300")?;
        assert!(near(SystemTime::now()), "a time that is none");
        std::fs::write(&path, "")?;
        assert!(near(SystemTime::now()));
        Ok(())
    }

    #[tokio::test]
    async fn a_sleeper_notices_the_move() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("offset");
        let clock = Clock::with_offset_file(&path)?;
        let wake = clock.now() + HOUR;
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(wake).await }
        });
        std::fs::write(&path, "3601")?;
        tokio::time::timeout(Duration::from_secs(20), sleeper).await??;
        Ok(())
    }

    #[test]
    fn a_folder_is_no_offset_file() {
        assert!(Clock::with_offset_file("/").is_err());
    }
}
