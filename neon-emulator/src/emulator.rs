//! The emulator as a whole: started, serving, stopped.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fd_lock::{RwLock, RwLockWriteGuard};
use neon_api::{ProjectId, Secret};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::api;
use crate::certificates::{CertificateError, Certificates};
use crate::engine::{Engine, Programs};
use crate::faults::Faults;
use crate::limits::Limits;
use crate::pooler::{PoolerProgramError, Program};
use crate::postgres::{FindError, Installation, ServerUser, UserError};
use crate::state::{Store, StoreError};

/// A Unix socket's path ends at 107 bytes, of which Postgres uses these for
/// `/.s.PGSQL.65535.lock`.
const SOCKET_FOLDER_BYTES_MAX: usize = 107 - 20;

/// How long requests that are under way may take at a stop.
const REQUEST_SECONDS_MAX: u64 = 5;

/// How to start.
#[derive(Debug)]
pub struct Config {
    /// Where the API listens. Loopback: the API key is its only guard.
    pub listen: SocketAddr,
    /// The folder for everything that is kept.
    pub data: PathBuf,
    /// The key that callers have to show.
    pub key: Secret,
    /// The folder of `postgres` and `initdb`. `None`: found by itself, or
    /// installed.
    pub postgres_bin: Option<PathBuf>,
    /// Who runs Postgres where the emulator is root. `None`: postgres, else
    /// nobody.
    pub postgres_user: Option<String>,
    /// The PgBouncer that serves pooled addresses. `None`: found by itself; where
    /// there is none, or an old one, they lead to Postgres itself.
    pub pgbouncer: Option<PathBuf>,
    /// For tests: use a PgBouncer that loses prepared statements.
    pub use_old_pgbouncer: bool,
    /// How much of everything there may be.
    pub limits: Limits,
    /// For tests: the clock is moved by the seconds that this file holds.
    pub test_clock: Option<PathBuf>,
    /// Whether there are routes to ask for faults, at `/admin/v1`.
    pub admin: bool,
}

impl Config {
    /// What has to be said; the rest is as the command line has it when nothing
    /// is given.
    #[must_use]
    pub fn new(listen: SocketAddr, data: PathBuf, key: Secret) -> Self {
        Self {
            listen,
            data,
            key,
            postgres_bin: None,
            postgres_user: None,
            pgbouncer: None,
            use_old_pgbouncer: false,
            limits: Limits::default(),
            admin: false,
            test_clock: None,
        }
    }
}

/// Why the emulator did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: io::Error,
    },
    /// The address is open to others.
    #[error(
        "{address} is no loopback address: the emulator is for one machine; choose another with --listen"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The API key is empty.
    #[error("NEON_API_KEY is empty: set it to the key that callers will show")]
    NoKey,
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {reason}", path.display())]
    Folder {
        /// What could not be made or opened.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The data folder is somebody else's.
    #[error("{} has files in it and is no emulator's data folder (it has no state.json); choose an empty or a new one with --data", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// Another emulator has the data folder.
    #[error("the data folder {} is in use by another emulator; stop it, or choose another with --data", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// There is no Postgres.
    #[error(transparent)]
    Postgres(#[from] FindError),
    /// Postgres cannot be run as the user it should run as.
    #[error(transparent)]
    User(#[from] UserError),
    /// The PgBouncer that was asked for cannot be run.
    #[error(transparent)]
    Pooler(#[from] PoolerProgramError),
    /// There is no certificate for the endpoints.
    #[error("cannot make the endpoints' certificate: {0}")]
    Certificate(String),
    /// There is no thread for the endpoints' addresses.
    #[error("cannot start the thread that listens for the endpoints: {reason}")]
    Gateway {
        /// What the system said.
        reason: io::Error,
    },
    /// The state cannot be read or written.
    #[error("cannot use the state: {0}")]
    State(String),
    /// The first project could not be made.
    #[error("cannot make the first project: {0}")]
    Project(String),
}

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    engine: Arc<Engine>,
    address: SocketAddr,
    faults: Faults,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<io::Result<()>>,
    _folder: DataFolder,
}

impl Emulator {
    /// Starts: takes the address and the data folder, finds Postgres, takes up
    /// what an earlier run left, makes the first project if there is none, and
    /// serves.
    ///
    /// # Errors
    /// When it cannot; nothing runs then, and nothing half made is left.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.key.expose().trim().is_empty() {
            return Err(StartError::NoKey);
        }
        if !config.listen.ip().is_loopback() {
            return Err(StartError::NotLoopback {
                address: config.listen,
            });
        }
        if let Some(path) = &config.test_clock {
            warn!(
                file = %path.display(),
                "UNSAFE: the time is moved by what this file says (--unsafe-test-clock); it is for tests only"
            );
        }
        crate::time::move_by_file(config.test_clock.clone()).map_err(|reason| {
            StartError::Folder {
                path: config.test_clock.clone().unwrap_or_default(),
                reason,
            }
        })?;
        // First, so that a taken port costs nothing.
        let listener = TcpListener::bind(config.listen).await;
        let (listener, address) = listener
            .and_then(|listener| {
                let address = listener.local_addr()?;
                Ok((listener, address))
            })
            .map_err(|reason| StartError::Listen {
                address: config.listen,
                reason,
            })?;
        let postgres_bin = config.postgres_bin;
        let installation = tokio::task::spawn_blocking(move || {
            Installation::find_or_install(postgres_bin.as_deref())
        })
        .await
        .map_err(|error| StartError::State(error.to_string()))??;
        // After Postgres: the package brings its user.
        let user = ServerUser::choose(config.postgres_user.as_deref())?;
        let pooler = Program::choose(config.pgbouncer.as_deref(), config.use_old_pgbouncer, &user)?;
        raise_descriptor_limit();
        let folder = DataFolder::take(&config.data)?;
        let data = folder.path.clone();
        // At once: by this file the folder is known as an emulator's.
        let store = Store::open(data.join("state.json")).map_err(state_error)?;
        store.save().map_err(state_error)?;
        folder.furnish()?;
        user.check_reaches(&data)?;
        let sockets = socket_folder(&data, &user)?;
        let certificates =
            Certificates::issue(&data, &user).map_err(|error: CertificateError| {
                StartError::Certificate(crate::engine::chain(&error))
            })?;
        info!(
            postgres = %installation.bin().display(),
            version = installation.major(),
            user = user.name(),
            data = %data.display(),
            "starting; data survives the death of any process, not a power cut (fsync is off)"
        );
        let engine = Engine::new(
            store,
            data,
            sockets,
            Programs {
                installation,
                user,
                pooler,
            },
            certificates,
            config.limits,
        )
        .map_err(|reason| StartError::Gateway { reason })?;
        engine.resume().await.map_err(state_error)?;
        if let Err(error) = first_project(&engine).await {
            engine.stop().await;
            return Err(error);
        }

        let (stop, mut stopped) = watch::channel(false);
        let (router, faults) = api::router(Arc::clone(&engine), config.key, config.admin);
        let served = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(async move {
                    // An error means that the emulator was dropped.
                    let _ = stopped.wait_for(|stopped| *stopped).await;
                })
                .await
        });
        Ok(Self {
            engine,
            address,
            faults,
            stop,
            served,
            _folder: folder.keep(),
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is to go wrong, and what was asked of the API.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The id of the first project.
    #[must_use]
    pub fn project(&self) -> Option<ProjectId> {
        self.engine
            .store()
            .read(|state| state.first_project.clone())
    }

    /// Stops serving, then stops every Postgres, cleanly.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.engine.stop().await;
        let abort = self.served.abort_handle();
        match timeout(Duration::from_secs(REQUEST_SECONDS_MAX), self.served).await {
            Ok(Ok(Err(error))) => warn!(%error, "the API ended with an error"),
            Ok(_) => {}
            // A client that never finishes its request.
            Err(_) => abort.abort(),
        }
    }
}

async fn first_project(engine: &Arc<Engine>) -> Result<(), StartError> {
    // One that was deleted is replaced: an emulator that starts has a project.
    if let Some(project) = engine.store().read(|state| state.first_project.clone()) {
        engine.settled(&project).await;
        return Ok(());
    }
    let project = api::create_first_project(engine)
        .map_err(|error| StartError::Project(error.message().to_owned()))?;
    engine.spawn_worker(project.clone());
    engine.settled(&project).await;
    let failure = engine.store().read(|state| {
        let operations = &state.projects.get(&project)?.operations;
        operations
            .iter()
            .find_map(|record| record.operation.error.clone())
    });
    let Some(message) = failure else {
        return Ok(());
    };
    // The next start begins anew.
    let removed = engine.change(|state| {
        state.projects.remove(&project);
        state.first_project = None;
        Ok::<_, StoreError>(())
    });
    removed.map_err(state_error)?;
    Err(StartError::Project(message))
}

/// Where Postgres makes its Unix sockets: in the data folder, unless that is
/// too deep.
fn socket_folder(data: &Path, user: &ServerUser) -> Result<PathBuf, StartError> {
    let mut folder = data.join("sockets");
    if folder.as_os_str().len() > SOCKET_FOLDER_BYTES_MAX {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        data.hash(&mut hasher);
        folder = PathBuf::from(format!("/tmp/neon-emulator-{:016x}", hasher.finish()));
    }
    let failed = |reason| StartError::Folder {
        path: folder.clone(),
        reason,
    };
    match fs::symlink_metadata(&folder) {
        Ok(found) if !found.is_dir() || !is_ours(&folder, user).map_err(failed)? => {
            let reason = "it is there and belongs to somebody else";
            return Err(failed(io::Error::new(
                io::ErrorKind::PermissionDenied,
                reason,
            )));
        }
        Ok(_) => {}
        Err(_) => fs::DirBuilder::new()
            .mode(0o711)
            .create(&folder)
            .map_err(failed)?,
    }
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o711))
        .and_then(|()| user.own(&folder))
        .map_err(failed)?;
    Ok(folder)
}

/// Made by an earlier run: for the emulator, and given to Postgres's user.
fn is_ours(folder: &Path, user: &ServerUser) -> io::Result<bool> {
    let own = nix::unistd::Uid::effective().as_raw();
    Ok(user.owns(folder)? || folder.metadata()?.uid() == own)
}

/// Each client is two sockets here, and one more in a pooler: as many as the
/// system lets a process have.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "could not raise the number of open files; clients may be few");
    }
}

fn state_error(error: StoreError) -> StartError {
    StartError::State(crate::engine::chain(&error))
}

/// The data folder, held for this process alone.
#[derive(Debug)]
struct DataFolder {
    /// Without links: as Postgres itself sees it.
    path: PathBuf,
    /// Removed again unless the start succeeds.
    new: bool,
    _lock: RwLockWriteGuard<'static, fs::File>,
}

impl DataFolder {
    fn take(data: &Path) -> Result<Self, StartError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |reason| StartError::Folder { path, reason }
        };
        let new = match fs::read_dir(data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(data)(error)),
            Ok(entries) => {
                // A kill at the very start leaves the lock alone.
                let mut names = entries.flatten().map(|entry| entry.file_name());
                if names.any(|name| name != "lock") && !data.join("state.json").exists() {
                    return Err(StartError::NotOurs {
                        path: data.to_owned(),
                    });
                }
                false
            }
        };
        if let Some(parent) = data.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        make_folder(data, 0o711)?;
        let path = data.canonicalize().map_err(failed(data))?;
        let lock = lock(&path)?;
        Ok(Self {
            path,
            new,
            _lock: lock,
        })
    }

    /// Makes the folders in it.
    fn furnish(&self) -> Result<(), StartError> {
        make_folder(&self.path.join("branches"), 0o711)?;
        make_folder(&self.path.join("replicas"), 0o711)?;
        make_folder(&self.path.join("log"), 0o700)
    }

    /// The start has succeeded.
    fn keep(mut self) -> Self {
        self.new = false;
        self
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if self.new
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            warn!(folder = %self.path.display(), %error, "could not remove what the failed start made");
        }
    }
}

/// Makes a folder unless it is there; one that is there stays as it is.
fn make_folder(path: &Path, mode: u32) -> Result<(), StartError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(reason) if reason.kind() != io::ErrorKind::AlreadyExists => Err(StartError::Folder {
            path: path.to_owned(),
            reason,
        }),
        _ => Ok(()),
    }
}

fn lock(data: &Path) -> Result<RwLockWriteGuard<'static, fs::File>, StartError> {
    let path = data.join("lock");
    let failed = |reason| StartError::Folder {
        path: path.clone(),
        reason,
    };
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    // Held until the process ends, which is when the emulator does.
    let lock: &'static mut RwLock<fs::File> = Box::leak(Box::new(RwLock::new(file)));
    lock.try_write().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::Locked {
            path: data.to_owned(),
        },
        _ => failed(error),
    })
}
