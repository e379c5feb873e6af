//! Which operating-system user runs Postgres. Postgres refuses to run as root,
//! so an emulator that is root runs it as somebody else.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};
use thiserror::Error;

/// Tried in this order when the emulator is root and no user was asked for:
/// the packages' own user, else the one that owns nothing.
const USERS_FOR_ROOT: [&str; 2] = ["postgres", "nobody"];

/// The user that Postgres runs as.
#[derive(Debug, Clone)]
pub struct ServerUser {
    /// Set when it is another than the emulator's own.
    switch_to: Option<(u32, u32)>,
    name: String,
    emulator_name: String,
}

/// Why Postgres cannot be run as the user it should run as.
#[derive(Debug, Error)]
pub enum UserError {
    /// The user database could not be read.
    #[error("could not look up the user {name}")]
    Lookup {
        /// Who was looked for.
        name: String,
        /// What the system said.
        #[source]
        source: nix::Error,
    },
    /// There is no such user.
    #[error("there is no user {name} to run Postgres as; give one with --postgres-user")]
    Unknown {
        /// Who was looked for.
        name: String,
    },
    /// Only root can run a program as somebody else.
    #[error("only root can run Postgres as another user ({name}); leave --postgres-user out")]
    NotRoot {
        /// Who was asked for.
        name: String,
    },
    /// Root may not be used.
    #[error("Postgres refuses to run as root; give another user with --postgres-user")]
    Root,
    /// A folder above the data folder keeps the user out.
    #[error("the user {name}, who runs Postgres, cannot reach {}: let others search the folders above it (chmod o+x), or choose another data folder", dir.display())]
    Unreachable {
        /// The user.
        name: String,
        /// The folder.
        dir: PathBuf,
    },
    /// The check itself failed.
    #[error("could not check that the user {name} reaches {}", dir.display())]
    Check {
        /// The user.
        name: String,
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ServerUser {
    /// Chooses the user: the emulator's own, or where that is root `wanted`,
    /// else postgres, else nobody.
    ///
    /// # Errors
    /// When the user is not there or may not be used.
    pub fn choose(wanted: Option<&str>) -> Result<Self, UserError> {
        let own = User::from_uid(Uid::effective())
            .ok()
            .flatten()
            .map_or_else(|| Uid::effective().to_string(), |user| user.name);
        if !Uid::effective().is_root() {
            return match wanted {
                Some(name) if name != own => Err(UserError::NotRoot {
                    name: name.to_owned(),
                }),
                _ => Ok(Self {
                    switch_to: None,
                    name: own.clone(),
                    emulator_name: own,
                }),
            };
        }
        let names: &[&str] = match &wanted {
            Some(name) => &[*name],
            None => &USERS_FOR_ROOT,
        };
        for name in names {
            let Some(user) = User::from_name(name).map_err(|source| UserError::Lookup {
                name: (*name).to_owned(),
                source,
            })?
            else {
                continue;
            };
            if user.uid.is_root() {
                return Err(UserError::Root);
            }
            return Ok(Self {
                switch_to: Some((user.uid.as_raw(), user.gid.as_raw())),
                name: user.name,
                emulator_name: own,
            });
        }
        Err(UserError::Unknown {
            name: names.join(" or "),
        })
    }

    /// The name of the user that Postgres runs as.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the user that the emulator runs as: whom Postgres's peer
    /// authentication sees.
    pub(crate) fn emulator_name(&self) -> &str {
        &self.emulator_name
    }

    /// A command that runs as this user, in a process group of its own: the
    /// terminal's Ctrl-C is for the emulator. Of the environment it gets what
    /// finds programs and libraries; the API key is not for it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C.UTF-8");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if let Some((uid, gid)) = self.switch_to {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to this user.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        match self.switch_to {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Gives an open file to this user.
    pub(crate) fn own_file(&self, file: &File) -> io::Result<()> {
        match self.switch_to {
            Some((uid, gid)) => fchown(file, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Whether the file or folder belongs to this user.
    pub(crate) fn owns(&self, path: &Path) -> io::Result<bool> {
        let owner = path.metadata()?.uid();
        Ok(match self.switch_to {
            Some((uid, _)) => owner == uid,
            None => owner == Uid::effective().as_raw(),
        })
    }

    /// Checks that this user can enter the folder.
    ///
    /// # Errors
    /// [`UserError::Unreachable`] when it cannot.
    pub fn check_reaches(&self, dir: &Path) -> Result<(), UserError> {
        let status = self
            .command(Path::new("/bin/sh"))
            .args(["-c", r#"cd "$1""#, "sh"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|source| UserError::Check {
                name: self.name.clone(),
                dir: dir.to_owned(),
                source,
            })?;
        if status.success() {
            Ok(())
        } else {
            Err(UserError::Unreachable {
                name: self.name.clone(),
                dir: dir.to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_never_chosen() {
        let chosen = ServerUser::choose(None).unwrap();
        assert_ne!(chosen.name(), "root");
        if Uid::effective().is_root() {
            assert!(matches!(
                ServerUser::choose(Some("root")),
                Err(UserError::Root)
            ));
        }
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = ServerUser::choose(Some("no-such-user-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-user-here"), "{error}");
    }

    #[test]
    fn a_closed_folder_is_unreachable() {
        use std::os::unix::fs::PermissionsExt;
        let user = ServerUser::choose(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        user.check_reaches(&inside).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o000)).unwrap();
        let error = user.check_reaches(&inside).unwrap_err();
        assert!(matches!(error, UserError::Unreachable { .. }), "{error}");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    }
}
