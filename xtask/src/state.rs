//! What is stored in the state folder, and who may change it.
//!
//! ```text
//! up.lock            held by the `up` that runs; its process id
//! log/NAME.log       standard error of each service
//! emulator/api-key   the emulator's API key, made once
//! emulator/data/     the emulator's own
//! emulator/state/    the second emulator's own: the broker's state database
//! emulator/broker.key    what the broker derives passwords from, made once
//! neon-PROJECT/      the same three for a project of Neon's: api-key, state/,
//!                    broker.key
//! ```
//!
//! The folder lets everybody through (0711), because the emulator runs Postgres
//! as another user when it is root; what is private in it is 0600 or 0700.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::neon::World;
use crate::repository;
use crate::step;

const LOCK: &str = "up.lock";
const KEY_BYTES: usize = 24;
const PASSABLE: u32 = 0o711;
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The state folder, locked for this process.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    _lock: File,
}

impl State {
    /// Opens the folder that was asked for, or the default one, and locks it.
    ///
    /// # Errors
    /// Another `up` runs on it, or it is somebody else's.
    pub(crate) fn open(asked: Option<&Path>) -> Result<Self> {
        let folder = match asked {
            Some(folder) => std::path::absolute(folder)
                .with_context(|| format!("find the folder {}", folder.display()))?,
            None => default_folder()?,
        };
        own_folder(&folder)?;
        let lock = lock(&folder)?;
        // Only now is it known to be a state folder.
        set_mode(&folder, PASSABLE)?;
        make_folder(&folder.join("log"), PRIVATE_FOLDER)?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the services' logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Where the emulator keeps its projects. The emulator makes it.
    pub(crate) fn emulator_data(&self) -> Result<PathBuf> {
        Ok(self.world(&World::Emulator)?.join("data"))
    }

    /// Where the second emulator keeps the broker's state database.
    pub(crate) fn database(&self, world: &World) -> Result<PathBuf> {
        Ok(self.world(world)?.join("state"))
    }

    /// The key of the broker's passwords; made at the first call, then kept.
    pub(crate) fn broker_key_file(&self, world: &World) -> Result<PathBuf> {
        let path = self.world(world)?.join("broker.key");
        key(&path, "")?;
        Ok(path)
    }

    /// The file with the emulator's API key.
    pub(crate) fn emulator_key_file(&self, world: &World) -> Result<PathBuf> {
        Ok(self.world(world)?.join("api-key"))
    }

    /// The emulators' API key; made at the first call, then kept.
    pub(crate) fn emulator_key(&self, world: &World) -> Result<String> {
        key(&self.emulator_key_file(world)?, "napi_")
    }

    /// Forgets everything that is kept for one world, and the logs.
    pub(crate) fn clear(&self, world: &World) -> Result<()> {
        for folder in [self.folder.join(world.folder()), self.logs()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("delete the folder {}", folder.display()));
                }
                _ => {}
            }
        }
        make_folder(&self.logs(), PRIVATE_FOLDER)
    }

    fn world(&self, world: &World) -> Result<PathBuf> {
        let folder = self.folder.join(world.folder());
        make_folder(&folder, PASSABLE)?;
        Ok(folder)
    }
}

/// `.up` in the repository; elsewhere when Postgres, running as another user
/// because this is root, could not reach it there.
fn default_folder() -> Result<PathBuf> {
    let root = repository::root();
    if !nix::unistd::geteuid().is_root() {
        return Ok(root.join(".up"));
    }
    let closed = closed_ancestor(root).context("look at the repository's parent folders")?;
    let Some(closed) = closed else {
        return Ok(root.join(".up"));
    };
    let folder = PathBuf::from(format!("/var/tmp/branch-broker-{:016x}", hash(root)));
    step::complain(&format!(
        "state is kept in {}: {} lets no other user in, and Postgres does not run as root",
        folder.display(),
        closed.display(),
    ));
    Ok(folder)
}

/// The first folder on the way to this one that not everybody may pass through.
fn closed_ancestor(folder: &Path) -> io::Result<Option<PathBuf>> {
    let folder = fs::canonicalize(folder)?;
    for ancestor in folder.ancestors() {
        if fs::metadata(ancestor)?.mode() & 0o001 == 0 {
            return Ok(Some(ancestor.to_path_buf()));
        }
    }
    Ok(None)
}

/// FNV-1a: the same in every build, unlike the standard library's hashers.
fn hash(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Makes a folder of ours, with a mode that the umask has no say in.
fn make_folder(folder: &Path, mode: u32) -> Result<()> {
    own_folder(folder)?;
    set_mode(folder, mode)
}

/// Makes a folder. One that is there already has to be this user's and a real
/// folder: /var/tmp is open to everybody.
fn own_folder(folder: &Path) -> Result<()> {
    let make = || -> io::Result<fs::Metadata> {
        fs::create_dir_all(folder)?;
        fs::symlink_metadata(folder)
    };
    let metadata = make().with_context(|| format!("make the folder {}", folder.display()))?;
    if !metadata.is_dir() || metadata.uid() != nix::unistd::geteuid().as_raw() {
        bail!(
            "{} is not a folder that belongs to this user: remove it, or name another with --state",
            folder.display()
        );
    }
    Ok(())
}

fn set_mode(folder: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", folder.display()))
}

/// Takes the lock, and writes this process's id into it for the one who comes next.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    // `--fresh` deletes here: only in a folder that has been ours from the start.
    let empty = || -> io::Result<bool> { Ok(fs::read_dir(folder)?.next().is_none()) };
    if !path.exists() && !empty().with_context(|| format!("read {}", folder.display()))? {
        bail!(
            "{} is not empty and was not made by `up`: name another folder with --state",
            folder.display()
        );
    }
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
    };
    let mut file = open().with_context(|| format!("open the file {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "already running (pid {}) on {}: stop it, or name another folder with --state",
                owner.trim(),
                folder.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock the file {}", path.display()));
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("write the file {}", path.display()))?;
    Ok(file)
}

/// The key that a file holds; made when it is not there.
fn key(path: &Path, prefix: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(key) => Ok(key.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = new_key(prefix).context("read /dev/urandom")?;
            write_private(path, &key)
                .with_context(|| format!("write the file {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read the file {}", path.display())),
    }
}

fn new_key(prefix: &str) -> io::Result<String> {
    let mut bytes = [0_u8; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{prefix}{hex}"))
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(&draft)?;
    writeln!(file, "{content}")?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use anyhow::Result;

    use super::{State, closed_ancestor, hash};
    use crate::neon::World;

    fn mode(path: &Path) -> Result<u32> {
        Ok(fs::metadata(path)?.permissions().mode() & 0o777)
    }

    #[test]
    fn a_closed_ancestor_is_found_and_an_open_way_is_not() -> Result<()> {
        let top = tempfile::tempdir()?;
        let closed = fs::canonicalize(top.path())?;
        let inner = closed.join("a/b");
        fs::create_dir_all(&inner)?;
        fs::set_permissions(&closed, Permissions::from_mode(0o700))?;
        assert_eq!(closed_ancestor(&inner)?, Some(closed.clone()));
        fs::set_permissions(&closed, Permissions::from_mode(0o711))?;
        // What lies above the temporary folder is the machine's own matter.
        assert_ne!(closed_ancestor(&inner)?, Some(closed));
        Ok(())
    }

    #[test]
    fn the_folders_name_does_not_change_between_builds() {
        assert_eq!(
            hash(Path::new("/root/branch-broker")),
            0x0281_9a22_0d80_a11b
        );
        assert_ne!(hash(Path::new("/root/a")), hash(Path::new("/root/b")));
    }

    #[test]
    fn a_second_up_is_told_who_holds_the_folder() -> Result<()> {
        let top = tempfile::tempdir()?;
        let folder = top.path().join("state");
        let first = State::open(Some(&folder))?;
        let error = State::open(Some(&folder)).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(
            error.starts_with(&format!("already running (pid {pid})")),
            "{error}"
        );
        drop(first);
        State::open(Some(&folder))?;
        Ok(())
    }

    #[test]
    fn a_folder_with_other_things_in_it_is_refused() -> Result<()> {
        let top = tempfile::tempdir()?;
        fs::write(top.path().join("letter.txt"), "dear")?;
        fs::set_permissions(top.path(), Permissions::from_mode(0o755))?;
        let error = State::open(Some(top.path())).unwrap_err().to_string();
        assert!(error.contains("was not made by `up`"), "{error}");
        assert!(top.path().join("letter.txt").exists());
        assert_eq!(mode(top.path())?, 0o755);
        Ok(())
    }

    #[test]
    fn the_key_is_private_and_stays_until_the_world_is_cleared() -> Result<()> {
        let top = tempfile::tempdir()?;
        let state = State::open(Some(&top.path().join("state")))?;
        let key = state.emulator_key(&World::Emulator)?;
        assert_eq!(key.len(), "napi_".len() + 48);
        assert_eq!(state.emulator_key(&World::Emulator)?, key);
        assert_eq!(mode(&state.emulator_key_file(&World::Emulator)?)?, 0o600);
        assert_eq!(mode(state.folder())?, 0o711);
        assert_eq!(mode(&state.logs())?, 0o700);
        state.clear(&World::Emulator)?;
        assert_ne!(state.emulator_key(&World::Emulator)?, key);
        Ok(())
    }
}
