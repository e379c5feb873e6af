//! Keeps the world as broker.toml declares it: at the start, until it is so,
//! and whenever somebody asks for an apply.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rpc::health::{Health, Serving, WHOLE_SERVER};
use tokio::sync::{Mutex, MutexGuard};

use crate::bindings::Bindings;
use crate::config::{BindingSpec, Config, ConfigError};
use crate::leases::Leases;
use crate::logins::Logins;
use crate::names::BindingName;
use crate::neon::{self, Neon};
use crate::reconcile::{self, Applied, Outcome, Report, Step};
use crate::state;
use crate::text::one_line;

/// Pauses between attempts to make the world match, in milliseconds.
const RETRY_MS_MIN: u64 = 250;
const RETRY_MS_MAX: u64 = 15_000;

/// Takes calls when the whole server does.
const LEASE_SERVICE: &str = "broker.v1.LeaseService";

/// Why an apply or a plan came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// broker.toml is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another apply runs.
    #[error("another apply is running")]
    Running,
    /// The world could not be looked at or changed.
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
    /// Some bindings are not as declared; the first of them.
    #[error("{binding}")]
    Binding {
        /// The binding.
        binding: BindingName,
        /// Why.
        #[source]
        source: reconcile::Error,
    },
    /// A binding's generation could not be stored, so it is not announced.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The task that applied is gone.
    #[error("the apply ended early")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl Error {
    /// Whether the same may work in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Config(_) => false,
            Error::Running | Error::State(_) | Error::Interrupted(_) => true,
            Error::Reconcile(error) => error.is_transient(),
            Error::Binding { source, .. } => source.is_transient(),
        }
    }
}

/// The keeper of one project.
#[derive(Debug)]
pub struct Keeper {
    neon: Neon,
    path: PathBuf,
    config: RwLock<Arc<Config>>,
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
    health: Health,
    /// Held by the one apply that runs.
    applying: Mutex<()>,
}

impl Keeper {
    /// With what was read from `path`. Declares its bindings.
    pub fn new(
        neon: Neon,
        path: PathBuf,
        config: Config,
        bindings: Arc<Bindings>,
        leases: Arc<Leases>,
        logins: Arc<Logins>,
        health: Health,
    ) -> Keeper {
        bindings.declare(&config);
        Keeper {
            neon,
            path,
            config: RwLock::new(Arc::new(config)),
            bindings,
            leases,
            logins,
            health,
            applying: Mutex::new(()),
        }
    }

    /// The project that is kept.
    pub fn neon(&self) -> &Neon {
        &self.neon
    }

    /// What was declared when it was last read.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the world match, trying again for as long as that can help, and
    /// returns when it matches or nothing more can be done without somebody's
    /// help. The error is that Neon will not have us.
    pub async fn settle(&self) -> Result<(), neon::Error> {
        let mut pause = Duration::from_millis(RETRY_MS_MIN);
        loop {
            let again = {
                let alone = self.applying.lock().await;
                match self.apply_config(self.config(), &alone).await {
                    Ok(applied) => applied
                        .failures
                        .iter()
                        .any(|(_, error)| error.is_transient()),
                    Err(Error::Reconcile(reconcile::Error::Neon(error))) if error.is_fatal() => {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::warn!(error = %one_line(&error), "the world is not as declared");
                        error.is_transient()
                    }
                }
            };
            if !again {
                return Ok(());
            }
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(Duration::from_millis(RETRY_MS_MAX));
        }
    }

    /// Reads broker.toml again and says what an apply would do.
    pub async fn plan(&self) -> Result<Vec<Step>, Error> {
        let config = Config::load(&self.path)?;
        let world = reconcile::look(&self.neon, &config).await?;
        Ok(reconcile::plan(&config, &world)?)
    }

    /// Reads broker.toml again and makes the world match. Goes on when the
    /// caller goes away.
    pub async fn apply(self: &Arc<Self>) -> Result<Vec<Step>, Error> {
        let keeper = Arc::clone(self);
        tokio::spawn(async move { keeper.apply_alone().await })
            .await
            .map_err(Error::Interrupted)?
    }

    async fn apply_alone(&self) -> Result<Vec<Step>, Error> {
        let alone = self.applying.try_lock().map_err(|_| Error::Running)?;
        let config = Arc::new(Config::load(&self.path)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        self.leases.configure(config.leases);
        self.bindings.declare(&config);
        let applied = self.apply_config(config, &alone).await?;
        match applied.failures.into_iter().next() {
            None => Ok(applied.steps),
            Some((binding, source)) => Err(Error::Binding { binding, source }),
        }
    }

    async fn apply_config(
        &self,
        config: Arc<Config>,
        _alone: &MutexGuard<'_, ()>,
    ) -> Result<Applied, Error> {
        self.logins.forget();
        let mut announcer = Announcer {
            bindings: &self.bindings,
            unstored: None,
        };
        let applied = reconcile::apply(&self.neon, &config, &mut announcer).await?;
        if let Some(error) = announcer.unstored {
            return Err(Error::State(error));
        }
        if applied.failures.is_empty() && self.bindings.are_ready() {
            for service in [WHOLE_SERVER, LEASE_SERVICE] {
                self.health.set(service, Serving::Serving).await;
            }
            tracing::info!("the world is as broker.toml declares it");
        }
        Ok(applied)
    }
}

/// Tells the bindings' watchers of an apply as it goes on.
struct Announcer<'a> {
    bindings: &'a Bindings,
    /// Why a binding that is ready could not be announced.
    unstored: Option<state::Error>,
}

impl Report for Announcer<'_> {
    async fn done(&mut self, spec: &BindingSpec, outcome: Outcome) {
        if let Err(error) = self.bindings.ready(&spec.name, outcome).await {
            self.bindings.not_ready(&spec.name, one_line(&error), false);
            self.unstored = Some(error);
        }
    }

    fn failed(&mut self, spec: &BindingSpec, error: &reconcile::Error) {
        let (message, for_good) = (one_line(error), !error.is_transient());
        tracing::warn!(binding = %spec.name, error = %message, for_good, "not as declared");
        self.bindings.not_ready(&spec.name, message, for_good);
    }
}
