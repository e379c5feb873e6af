//! One file: copied as the file system does it cheapest.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::CloneMethod;
use crate::postgres::ServerUser;

/// How much is copied before somebody is told.
const TOLD_BYTES: u64 = 32 << 20;

/// Copies a file, over what is there. The copy is its new owner's alone. `tell`
/// hears of the bytes that were copied, where they are.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    method: CloneMethod,
    user: &ServerUser,
    tell: &dyn Fn(u64),
) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    match method {
        CloneMethod::Btrfs | CloneMethod::Reflink => share(&source, &target, from, to)?,
        CloneMethod::Copy => copy_bytes(&source, &target, tell)?,
    }
    user.own_file(&target)
}

/// Lets the copy share the source's blocks.
#[cfg(target_os = "linux")]
fn share(source: &File, target: &File, _from: &Path, _to: &Path) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(target, source)?)
}

/// On macOS `std::fs::copy` clones, where there is no file yet.
#[cfg(not(target_os = "linux"))]
fn share(_source: &File, _target: &File, from: &Path, to: &Path) -> io::Result<()> {
    std::fs::remove_file(to)?;
    std::fs::copy(from, to).map(|_| ())
}

/// Copies what is there, and leaves holes as holes.
#[cfg(target_os = "linux")]
fn copy_bytes(mut source: &File, mut target: &File, tell: &dyn Fn(u64)) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::MetadataExt;
    /// `st_blocks` counts in these.
    const BLOCK_BYTES: u64 = 512;

    let metadata = source.metadata()?;
    let length = metadata.len();
    if metadata.blocks() * BLOCK_BYTES >= length {
        return copy_range(source, target, u64::MAX, tell);
    }
    let mut position = 0;
    while let Some(begin) = seek(source, rustix::fs::SeekFrom::Data(position))? {
        // A file always ends with a hole.
        let end = seek(source, rustix::fs::SeekFrom::Hole(begin))?.unwrap_or(length);
        source.seek(SeekFrom::Start(begin))?;
        target.seek(SeekFrom::Start(begin))?;
        copy_range(source, target, end - begin, tell)?;
        position = end;
    }
    // A hole at the end.
    if target.metadata()?.len() < length {
        target.set_len(length)?;
    }
    Ok(())
}

/// Copies so many bytes, or all that there are, inside the kernel.
fn copy_range(
    source: &File,
    mut target: &File,
    mut bytes: u64,
    tell: &dyn Fn(u64),
) -> io::Result<()> {
    use std::io::Read;

    while bytes > 0 {
        let copied = io::copy(&mut source.take(bytes.min(TOLD_BYTES)), &mut target)?;
        if copied == 0 {
            break;
        }
        bytes -= copied;
        tell(copied);
    }
    Ok(())
}

/// `None`: there is no such position any more.
#[cfg(target_os = "linux")]
fn seek(file: &File, to: rustix::fs::SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(position) => Ok(Some(position)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn copy_bytes(source: &File, target: &File, tell: &dyn Fn(u64)) -> io::Result<()> {
    copy_range(source, target, u64::MAX, tell)
}

/// Everything written to the file system so far is on the disk afterwards.
#[cfg(target_os = "linux")]
pub(super) fn sync_file_system(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

/// Elsewhere there is no call for one file system.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_file_system(_root: &Path) -> io::Result<()> {
    nix::unistd::sync();
    Ok(())
}

/// The names in a folder are on the disk afterwards.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut file = File::create(&from).unwrap();
        for offset in [1 << 20, 5 << 20] {
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(&[7; 10_000]).unwrap();
        }
        file.set_len(9 << 20).unwrap();
        drop(file);
        std::fs::write(&to, "what was there").unwrap();
        let user = ServerUser::choose(None).unwrap();
        let told = std::cell::Cell::new(0);
        let tell = |bytes| told.set(told.get() + bytes);
        copy(&from, &to, CloneMethod::Copy, &user, &tell).unwrap();
        assert!((20_000..9 << 20).contains(&told.get()), "{told:?}");
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::MetadataExt;
            let blocks = to.metadata().unwrap().blocks();
            assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
        }
    }
}
