//! btrfs subvolumes: folders that are cloned whole, at once, at any size.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{create, delete, is_subvolume, snapshot};
#[cfg(target_os = "linux")]
pub(super) use linux::{create, delete, is_subvolume, snapshot};

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsStr;
    use std::fs::{self, File};
    use std::io;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// The root folder of a subvolume has this number (BTRFS_FIRST_FREE_OBJECTID).
    const SUBVOLUME_INODE: u64 = 256;

    /// `struct btrfs_ioctl_vol_args` of linux/btrfs.h.
    #[repr(C)]
    struct Arguments {
        fd: i64,
        name: [u8; 4_088],
    }

    mod calls {
        use super::Arguments;
        nix::ioctl_write_ptr!(snapshot, 0x94, 1, Arguments);
        nix::ioctl_write_ptr!(create, 0x94, 14, Arguments);
        nix::ioctl_write_ptr!(delete, 0x94, 15, Arguments);
    }

    /// True for the root folder of a subvolume, where the file system is btrfs.
    pub(in crate::storage) fn is_subvolume(path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|metadata| metadata.is_dir() && metadata.ino() == SUBVOLUME_INODE)
    }

    /// Makes an empty subvolume.
    pub(in crate::storage) fn create(path: &Path) -> io::Result<()> {
        call(path, 0, calls::create)
    }

    /// Makes a subvolume that shares all that is in another.
    pub(in crate::storage) fn snapshot(from: &Path, to: &Path) -> io::Result<()> {
        let from = File::open(from)?;
        call(to, from.as_raw_fd().into(), calls::snapshot)
    }

    /// Deletes a subvolume with all that is in it. For this one has to be root,
    /// or the file system has to be mounted with user_subvol_rm_allowed.
    pub(in crate::storage) fn delete(path: &Path) -> io::Result<()> {
        call(path, 0, calls::delete)
    }

    type Call = unsafe fn(RawFd, *const Arguments) -> nix::Result<nix::libc::c_int>;

    /// The kernel takes the folder as an open file and the name in it.
    #[allow(unsafe_code)]
    fn call(path: &Path, fd: i64, call: Call) -> io::Result<()> {
        let (folder, name) = path
            .parent()
            .zip(path.file_name().map(OsStr::as_bytes))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let folder = File::open(folder)?;
        let mut arguments = Box::new(Arguments {
            fd,
            name: [0; 4_088],
        });
        // The last byte stays 0.
        if name.len() >= arguments.name.len() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        arguments.name[..name.len()].copy_from_slice(name);
        // SAFETY: each of these calls reads one `btrfs_ioctl_vol_args`, which
        // `arguments` is and which lives until it returns; the files are open.
        unsafe { call(folder.as_raw_fd(), &raw const *arguments) }?;
        Ok(())
    }
}

/// btrfs is Linux's.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;
    use std::path::Path;

    pub(in crate::storage) fn is_subvolume(_path: &Path) -> bool {
        false
    }

    pub(in crate::storage) fn create(_path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::storage) fn snapshot(_from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::storage) fn delete(_path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
