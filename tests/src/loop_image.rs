//! File systems of a test's own, in files: for root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A mounted file system, unmounted when it is dropped.
#[derive(Debug)]
pub struct LoopImage {
    folder: PathBuf,
}

impl LoopImage {
    /// Makes a file system ("xfs", "btrfs" or "ext4") of this size and mounts it
    /// in a folder of this name.
    ///
    /// # Errors
    /// When this is not root, or the tools are missing: the message has the
    /// package to install.
    pub fn new(place: &Path, file_system: &str, megabytes: u64) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "only root can mount a file system: run this test as root"
        );
        let image = place.join(format!("{file_system}.img"));
        let folder = place.join(file_system);
        std::fs::create_dir(&folder)?;
        std::fs::File::create(&image)?.set_len(megabytes << 20)?;
        let package = match file_system {
            "xfs" => "xfsprogs",
            "btrfs" => "btrfs-progs",
            _ => "e2fsprogs",
        };
        // Whole at once: else the kernel goes on making it behind our back.
        let options: &[&str] = match file_system {
            "ext4" => &["-E", "lazy_itable_init=0,lazy_journal_init=0"],
            _ => &[],
        };
        let path = std::env::var("PATH").unwrap_or_default();
        run(Command::new(format!("mkfs.{file_system}"))
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .arg("-q")
            .args(options)
            .arg(&image))
        .with_context(|| {
            format!("make a file system; if it is missing: apt-get install {package}")
        })?;
        run(Command::new("mount")
            .args(["-o", "loop,noatime"])
            .arg(&image)
            .arg(&folder))?;
        Ok(Self { folder })
    }

    /// A folder on it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for LoopImage {
    fn drop(&mut self) {
        // Lazily: a test that failed leaves processes there.
        let unmounted = run(Command::new("umount").arg("--lazy").arg(&self.folder));
        if let Err(error) = unmounted {
            eprintln!("{} is still mounted: {error:#}", self.folder.display());
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
