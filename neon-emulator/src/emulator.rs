//! The emulator as a whole: started, serving, stopped.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fd_lock::{RwLock, RwLockWriteGuard};
use neon_api::{ProjectId, Secret};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::api;
use crate::certificates::{CertificateError, Certificates};
use crate::engine::Engine;
use crate::postgres::{FindError, Installation, ServerUser, UserError};
use crate::state::{Store, StoreError};

/// A Unix socket's path ends at 107 bytes, of which Postgres uses these for
/// `/.s.PGSQL.65535.lock`.
const SOCKET_FOLDER_BYTES_MAX: usize = 107 - 20;

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
}

/// Why the emulator did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
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
    #[error("cannot use the data folder {}: {source}", path.display())]
    Folder {
        /// What could not be made or opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
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
    /// There is no certificate for the endpoints.
    #[error("cannot make the endpoints' certificate: {0}")]
    Certificate(String),
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
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<io::Result<()>>,
    _lock: Lock,
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
        // First, so that a taken port costs nothing.
        let listener = TcpListener::bind(config.listen).await;
        let (listener, address) = listener
            .and_then(|listener| {
                let address = listener.local_addr()?;
                Ok((listener, address))
            })
            .map_err(|source| StartError::Listen {
                address: config.listen,
                source,
            })?;
        let postgres_bin = config.postgres_bin;
        let installation = tokio::task::spawn_blocking(move || {
            Installation::find_or_install(postgres_bin.as_deref())
        })
        .await
        .map_err(|error| StartError::State(error.to_string()))??;
        // After Postgres: the package brings its user.
        let user = ServerUser::choose(config.postgres_user.as_deref())?;
        let data = make_folders(&config.data)?;
        let lock = Lock::take(&data)?;
        user.check_reaches(&data)?;
        let sockets = socket_folder(&data, &user)?;
        let certificates =
            Certificates::issue(&data, &user).map_err(|error: CertificateError| {
                StartError::Certificate(crate::engine::chain(&error))
            })?;
        let store = Store::open(data.join("state.json")).map_err(state_error)?;
        info!(
            postgres = %installation.bin().display(),
            version = installation.major(),
            user = user.name(),
            data = %data.display(),
            "starting; data survives the death of any process, not a power cut (fsync is off)"
        );
        let engine = Engine::new(store, data, sockets, installation, user, certificates);
        engine.resume().await.map_err(state_error)?;
        if let Err(error) = first_project(&engine).await {
            engine.stop().await;
            return Err(error);
        }

        let (stop, mut stopped) = watch::channel(false);
        let router = api::router(Arc::clone(&engine), config.key);
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
            stop,
            served,
            _lock: lock,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of the first project.
    #[must_use]
    pub fn project(&self) -> Option<ProjectId> {
        self.engine
            .store()
            .read(|state| state.projects.keys().next().cloned())
    }

    /// Stops serving, then stops every Postgres, cleanly.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.engine.stop().await;
        if let Ok(Err(error)) = self.served.await {
            warn!(%error, "the API ended with an error");
        }
    }
}

async fn first_project(engine: &Arc<Engine>) -> Result<(), StartError> {
    let known = engine
        .store()
        .read(|state| state.projects.keys().next().cloned());
    let project = match known {
        Some(project) => project,
        None => {
            let project = api::create_first_project(engine)
                .map_err(|error| StartError::Project(error.message().to_owned()))?;
            engine.spawn_worker(project.clone());
            project
        }
    };
    engine.settled(&project).await;
    let failure = engine.store().read(|state| {
        let project = state.projects.get(&project)?;
        if project.default_branch().is_some() {
            return None;
        }
        project
            .operations
            .iter()
            .find_map(|record| record.operation.error.clone())
            .or_else(|| Some("it has no default branch".to_owned()))
    });
    match failure {
        None => Ok(()),
        Some(message) => {
            // The next start begins with an empty state.
            let removed = engine.change(|state| {
                state.projects.remove(&project);
                Ok::<_, StoreError>(())
            });
            removed.map_err(state_error)?;
            Err(StartError::Project(message))
        }
    }
}

fn make_folders(data: &Path) -> Result<PathBuf, StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| StartError::Folder { path, source }
    };
    for (folder, mode) in [("", 0o711), ("branches", 0o711), ("log", 0o700)] {
        let folder = data.join(folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&folder)
            .and_then(|()| fs::set_permissions(&folder, PermissionsExt::from_mode(mode)))
            .map_err(failed(&folder))?;
    }
    // Postgres's own idea of its folder has no links in it.
    data.canonicalize().map_err(failed(data))
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
    let failed = |source| StartError::Folder {
        path: folder.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&folder)
        .and_then(|()| user.own(&folder))
        .map_err(failed)?;
    if !user.owns(&folder).map_err(failed)? {
        return Err(failed(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to somebody else",
        )));
    }
    Ok(folder)
}

fn state_error(error: StoreError) -> StartError {
    StartError::State(crate::engine::chain(&error))
}

/// Holds the data folder for this process alone.
#[derive(Debug)]
struct Lock {
    _guard: RwLockWriteGuard<'static, fs::File>,
}

impl Lock {
    fn take(data: &Path) -> Result<Self, StartError> {
        let path = data.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| StartError::Folder { path, source })?;
        // Held until the process ends, which is when the emulator does.
        let lock: &'static mut RwLock<fs::File> = Box::leak(Box::new(RwLock::new(file)));
        match lock.try_write() {
            Ok(guard) => Ok(Self { _guard: guard }),
            Err(_) => Err(StartError::Locked {
                path: data.to_owned(),
            }),
        }
    }
}
