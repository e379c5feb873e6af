//! What a process has used, as Linux tells it, and how many descriptors it may have.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// In which Linux counts processor time, whatever it runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// What a process has in memory, in megabytes (2^20 bytes).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resident {
    /// Now.
    pub(crate) now_mb: f64,
    /// At most, since it began, or since that was forgotten.
    pub(crate) most_mb: f64,
}

/// The processor time that a process and its threads have had. `pid` may be `self`.
pub(crate) fn processor_seconds(pid: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name, in parentheses, may have spaces in it.
    let (_, fields) = stat.rsplit_once(") ").context("a name in it")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| -> anyhow::Result<f64> {
        let field = fields.get(at).with_context(|| format!("{path} is short"))?;
        Ok(field.parse()?)
    };
    // utime and stime, the 14th and 15th of all fields.
    Ok((ticks(11)? + ticks(12)?) / TICKS_A_SECOND)
}

/// What a process has in memory.
pub(crate) fn resident(pid: &str) -> anyhow::Result<Resident> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let megabytes = |name: &str| -> anyhow::Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        let number = number.with_context(|| format!("{name} in {path}"))?;
        Ok(number.parse::<f64>()? / 1_024.0)
    };
    Ok(Resident {
        now_mb: megabytes("VmRSS:")?,
        most_mb: megabytes("VmHWM:")?,
    })
}

/// Has the most that a process has in memory begin anew, with what it has now.
pub(crate) fn forget_most_resident(pid: &str) -> anyhow::Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    // Five: the peak, and nothing else.
    std::fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// Lets this process, and those that it starts from now on, have so many files and
/// sockets open.
pub(crate) fn allow_descriptors(needed: u64) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    // Beyond the hard one only root may go, and not everywhere.
    let limit = hard.max(needed);
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).with_context(|| {
        format!(
            "have {needed} files open, in this process and in the broker: the hard limit is {hard} \
             (`ulimit -Hn`); raise it, or measure with fewer --holders"
        )
    })
}
