//! The emulator as a whole: started, serving, stopped.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use neon_api::ProjectId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::api;
use crate::certificates::{CertificateError, Certificates};
use crate::config::Config;
use crate::engine::{BRANCHES, Engine, Parts, Programs};
use crate::faults::Faults;
use crate::folder::{DataFolder, make_folder, socket_folder};
use crate::pooler::Program;
use crate::postgres::{Installation, ServerUser};
use crate::start_error::StartError;
use crate::state::{Store, StoreError};
use crate::storage::{Durability, Image, Storage, choose};

/// How long requests that are under way may take at a stop.
const REQUEST_SECONDS_MAX: u64 = 5;

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    engine: Arc<Engine>,
    address: SocketAddr,
    faults: Faults,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<io::Result<()>>,
    /// Unmounted before the folder is given up.
    _image: Option<Image>,
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
        let postgres_bin = config.postgres_bin.clone();
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
        let store = Store::open(data.join("state.json"), config.durability).map_err(state_error)?;
        store.save().map_err(state_error)?;
        folder.furnish()?;
        user.check_reaches(&data)?;
        let image = Image::mount(&data, config.storage_image, config.storage)?;
        let storage = storage(&config, &data, image.as_ref(), &user)?;
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
            "starting"
        );
        tell(&storage);
        let engine = Engine::new(Parts {
            store,
            data,
            sockets,
            programs: Programs {
                installation,
                user,
                pooler,
            },
            storage,
            certificates,
            limits: config.limits,
        })
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
            _image: image,
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

/// Finds out how folders are cloned where the branches are.
fn storage(
    config: &Config,
    data: &Path,
    image: Option<&Image>,
    user: &ServerUser,
) -> Result<Storage, StartError> {
    let root = image.map_or(data, Image::folder);
    make_folder(&root.join(BRANCHES), 0o711)?;
    let chosen = choose(root, config.storage, user)
        .map_err(|error| StartError::Storage(error.to_string()))?;
    Ok(Storage::new(
        root.to_owned(),
        chosen,
        config.durability,
        user.clone(),
    ))
}

fn tell(storage: &Storage) {
    let chosen = storage.chosen();
    info!(
        folder = %storage.root().display(),
        file_system = chosen.file_system,
        method = %chosen.method,
        because = chosen.reason,
        "how branches are cloned"
    );
    match storage.durability() {
        Durability::Process => info!(
            "durability process: data survive the death of any process, not a power cut (fsync is off)"
        ),
        Durability::Machine => {
            info!("durability machine: what was acknowledged survives a power cut (fsync is on)");
        }
    }
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
