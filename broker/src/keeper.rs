//! Keeps the world as broker.toml declares it: at the start, until it is so,
//! and whenever somebody asks for an apply.

mod announcer;
mod error;
mod follow;
mod in_force;
mod moves;
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use neon_api::BranchId;
use neon_api::types::Branch;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tracing::Instrument as _;

use crate::bindings::Bindings;
use crate::config::{BindingSpec, Config, ConfigError};
use crate::leases::Leases;
use crate::ledger::Ledger;
use crate::logins::Logins;
use crate::names::BindingName;
use crate::neon::{self, Neon};
use crate::reconcile::{self, Applied, Outcome, Remark, Step};
use crate::state::{Generation, State};
use crate::text::one_line;
use announcer::Announcer;

pub use error::Error;

/// Pauses between attempts to make the world match, in milliseconds.
const RETRY_MS_MIN: u64 = 250;
const RETRY_MS_MAX: u64 = 15_000;

/// How many applies in a row go on by themselves although an operation of
/// Neon's failed in each: it may have been a bad moment, and may not.
const OPERATION_FAILURES_MAX: u32 = 4;

/// What an apply would do.
#[derive(Debug)]
pub struct Plan {
    /// What broker.toml declares.
    pub config: Config,
    /// In the order in which they would be taken.
    pub steps: Vec<Step>,
    /// What is otherwise than declared, and stays so.
    pub remarks: Vec<Remark>,
}

/// The keeper of one project.
#[derive(Debug)]
pub struct Keeper {
    neon: Neon,
    /// The same, for what nobody waits for.
    background: Neon,
    path: PathBuf,
    config: RwLock<Arc<Config>>,
    /// When broker.toml was last read, but for its grants.
    read_at: std::sync::Mutex<Timestamp>,
    state: Arc<State>,
    ledger: Ledger,
    bindings: Arc<Bindings>,
    leases: Arc<Leases>,
    logins: Arc<Logins>,
    /// Branches that were reset or restored, and why, until their bindings are
    /// announced.
    renewed: std::sync::Mutex<BTreeMap<BranchId, String>>,
    /// Held by the one apply that runs.
    applying: Mutex<()>,
    /// Told when an apply left what trying again may mend.
    unsettled: Notify,
    /// Whether the world has matched since this process began.
    was_ready: watch::Sender<bool>,
    /// Applies in a row in which an operation of Neon's failed.
    operation_failures: AtomicU32,
}

impl Keeper {
    /// With what was read from `path` just now. Declares its bindings.
    pub fn new(
        neon: Neon,
        path: PathBuf,
        config: Config,
        ledger: Ledger,
        bindings: Arc<Bindings>,
        leases: Arc<Leases>,
        logins: Arc<Logins>,
    ) -> Keeper {
        bindings.declare(&config);
        Keeper {
            background: neon.background(),
            neon,
            path,
            config: RwLock::new(Arc::new(config)),
            read_at: std::sync::Mutex::new(leases.now()),
            state: Arc::clone(ledger.state()),
            ledger,
            bindings,
            leases,
            logins,
            renewed: std::sync::Mutex::default(),
            applying: Mutex::new(()),
            unsettled: Notify::new(),
            was_ready: watch::Sender::new(false),
            operation_failures: AtomicU32::new(0),
        }
    }

    /// Has the world looked at again, when nobody else is at work with it.
    pub fn look_again(&self) {
        self.unsettled.notify_one();
    }

    /// The project that is kept.
    pub fn neon(&self) -> &Neon {
        &self.neon
    }

    /// Reads the grants of broker.toml again, and nothing else of it. On an error
    /// nothing changes.
    pub fn reload_grants(&self) -> Result<(), ConfigError> {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let new = Config::load(&self.path)?;
        if config.grants != new.grants {
            Arc::make_mut(&mut config).grants = new.grants;
            tracing::info!("broker.toml grants other rights");
        }
        Ok(())
    }

    /// What a binding was announced as last, by any broker on this state.
    pub fn announced(&self, name: &BindingName) -> Option<Generation> {
        let last = self.state.read(|data| data.generations.get(name).cloned());
        last.filter(|last| !last.is_retired())
    }

    /// Whether the world has matched since this process began.
    pub fn was_ready(&self) -> watch::Receiver<bool> {
        self.was_ready.subscribe()
    }

    /// What was declared when it was last read.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the world match at the start, and again whenever an apply has left
    /// it so that trying again may help. Ends only when Neon will not have us
    /// before the world has ever matched: a broker that serves goes on serving.
    pub async fn settle(&self) -> neon::Error {
        loop {
            if let Err(error) = self.settle_once().await {
                return error;
            }
            self.unsettled.notified().await;
        }
    }

    /// Tries for as long as that can help.
    async fn settle_once(&self) -> Result<(), neon::Error> {
        let mut pause = Duration::from_millis(RETRY_MS_MIN);
        loop {
            let again = {
                let alone = self.applying.lock().await;
                match self.apply_config(self.config(), true, &alone).await {
                    Ok(applied) => self.is_unsettled(&applied),
                    Err(Error::Reconcile(reconcile::Error::Neon(error)))
                        if error.is_fatal() && !*self.was_ready.borrow() =>
                    {
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::warn!(error = %one_line(&error), "the world is not as declared");
                        error.is_transient() || error.is_access_denied()
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

    /// Keeps applies of this process away for as long as it is held.
    pub async fn alone(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }

    /// Why a binding's branch has other data than when it was announced last; none
    /// when it has not.
    fn why_renewed(&self, spec: &BindingSpec, outcome: &Outcome) -> Option<String> {
        if let Some(reason) = self.renewed().get(&outcome.branch) {
            return Some(reason.clone());
        }
        let is_other = self.bindings.has_other_data(&spec.name, outcome);
        is_other.then(|| format!("the branch {} was reset or restored", outcome.branch))
    }

    fn read_at(&self) -> std::sync::MutexGuard<'_, Timestamp> {
        self.read_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self) -> std::sync::MutexGuard<'_, BTreeMap<BranchId, String>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether trying again may mend what an apply could not do. A fork that
    /// waits for its parent has no say: the parent has.
    fn is_unsettled(&self, applied: &Applied) -> bool {
        applied.failures.iter().any(|(_, error)| {
            !matches!(error, reconcile::Error::ParentNotReady { .. })
                && (error.is_transient() || self.may_operate_again(error))
        })
    }

    /// Whether trying again may mend what an apply left, or why there was none.
    fn may_mend(&self, applied: &Result<Applied, Error>) -> bool {
        match applied {
            Ok(applied) => self.is_unsettled(applied),
            Err(error) => error.is_transient() || error.is_access_denied(),
        }
    }

    /// Whether an operation of Neon's failed, and that was not too often.
    fn may_operate_again(&self, error: &reconcile::Error) -> bool {
        error.is_failed_operation()
            && self.operation_failures.load(Ordering::Relaxed) < OPERATION_FAILURES_MAX
    }

    /// Reads broker.toml again and says what an apply would do, and what is
    /// otherwise than declared and stays so.
    pub async fn plan(&self) -> Result<Plan, Error> {
        let config = Config::load(&self.path)?;
        let in_force = self.in_force(&self.neon, Arc::new(config.clone())).await?;
        let world = reconcile::look(&self.neon, &self.ledger, &in_force.config).await?;
        let steps = reconcile::plan(&in_force.config, &world)?;
        let mut remarks = in_force.remarks;
        remarks.extend(world.remarks);
        Ok(Plan {
            config,
            steps,
            remarks,
        })
    }

    /// Bindings that point at that branch or are declared to live on it, by what any
    /// broker on this state knows. One that this broker does not know counts if it
    /// is younger than what broker.toml said here: another has read it since. One
    /// that is older was removed from it.
    pub fn bindings_on(&self, branch: &Branch) -> Vec<BindingName> {
        let mut names = self.bindings.on_branch(branch);
        let read_at = *self.read_at();
        let others: Vec<BindingName> = self.state.read(|data| {
            let all = data.generations.iter();
            let others = all.filter(|(name, generation)| {
                let is_declared = || self.bindings.get(name).is_some();
                generation.branch == branch.id
                    && !generation.is_retired()
                    && (generation.since > read_at || is_declared())
            });
            others.map(|(name, _)| name.clone()).collect()
        });
        names.extend(others);
        let now = self.leases.now();
        names.extend(self.state.read(|data| data.moving_to(&branch.id, now)));
        names.sort();
        names.dedup();
        names
    }

    /// Gives a branch other data, which `change` does, beneath the bindings on it:
    /// they give no leases meanwhile, and no apply runs. Afterwards they are made
    /// as declared, whether or not `change` worked; those whose branch has other
    /// data are announced under a new generation once their lease roles are right.
    /// `what` is done to it, for people: "restored".
    pub async fn renew<E: From<Error>>(
        &self,
        branch: &Branch,
        what: &str,
        change: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let alone = self.applying.lock().await;
        let on_branch = self.bindings.on_branch(branch);
        self.pause(&on_branch, &branch.id, what).await?;
        let mut held = Held {
            unsettled: (!on_branch.is_empty()).then_some(&self.unsettled),
        };
        for name in &on_branch {
            let message = format!("its branch is being {what}");
            self.bindings.hold(name, message);
        }
        let changed = change.await;
        if on_branch.is_empty() {
            changed?;
            // Leases may be on it all the same.
            return Ok(Box::pin(self.roles_right_on(&branch.id)).await?);
        }
        if changed.is_ok() {
            let reason = format!("the branch {} was {what}", branch.name);
            self.renewed().insert(branch.id.clone(), reason);
        }
        let applied = self.apply_config(self.config(), false, &alone).await;
        let unsettled = self.may_mend(&applied);
        held.unsettled = unsettled.then_some(&self.unsettled);
        drop(held);
        self.resume(&on_branch).await?;
        changed?;
        let mut failures = applied?.failures.into_iter();
        match failures.find(|(name, _)| on_branch.contains(name)) {
            None => Ok(()),
            Some((binding, source)) => Err(Error::Binding { binding, source }.into()),
        }
    }

    /// Reads broker.toml again and makes the world match. `last`, whose steps come
    /// last, is done once it does, while no other apply runs. Goes on when the caller
    /// goes away.
    pub async fn apply<E, F>(
        self: &Arc<Self>,
        last: impl FnOnce(Arc<Config>) -> F + Send + 'static,
    ) -> Result<Vec<Step>, E>
    where
        E: From<Error> + Send + 'static,
        F: Future<Output = Result<Vec<Step>, E>> + Send,
    {
        let keeper = Arc::clone(self);
        let applying = async move { keeper.apply_alone(last).await };
        tokio::spawn(applying.instrument(rpc::traces::behind("apply")))
            .await
            .map_err(Error::Interrupted)?
    }

    async fn apply_alone<E, F>(&self, last: impl FnOnce(Arc<Config>) -> F) -> Result<Vec<Step>, E>
    where
        E: From<Error>,
        F: Future<Output = Result<Vec<Step>, E>>,
    {
        let alone = self.applying.try_lock().map_err(|_| Error::Running)?;
        let config = self.read_config().map_err(Error::Config)?;
        self.leases.configure(config.leases);
        self.bindings.declare(&config);
        let applied = self.apply_config(Arc::clone(&config), false, &alone).await;
        let unsettled = self.may_mend(&applied);
        if unsettled {
            self.unsettled.notify_one();
        }
        let Applied {
            mut steps,
            failures,
        } = applied?;
        if let Some((binding, source)) = failures.into_iter().next() {
            return Err(Error::Binding { binding, source }.into());
        }
        steps.extend(last(config).await?);
        Ok(steps)
    }

    /// Reads broker.toml again, all of it. Who reads it holds the lock: what is
    /// kept is never older than what was read last.
    fn read_config(&self) -> Result<Arc<Config>, ConfigError> {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.leases.now();
        *config = Arc::new(Config::load(&self.path)?);
        *self.read_at() = now;
        Ok(Arc::clone(&config))
    }

    async fn apply_config(
        &self,
        config: Arc<Config>,
        in_background: bool,
        _alone: &MutexGuard<'_, ()>,
    ) -> Result<Applied, Error> {
        let neon = match in_background {
            true => &self.background,
            false => &self.neon,
        };
        let in_force = self.in_force(neon, config).await?;
        let mut announcer = Announcer {
            keeper: self,
            in_background,
            seen: in_force.seen,
            renewed: Vec::new(),
            trouble: None,
        };
        let config = &in_force.config;
        let applied = reconcile::apply(neon, &self.ledger, config, &mut announcer).await?;
        self.tell(&applied.steps).await;
        let Announcer {
            renewed, trouble, ..
        } = announcer;
        if let Some(error) = trouble {
            return Err(error);
        }
        let failed = |name: &BindingName| applied.failures.iter().any(|(failed, _)| failed == name);
        // A branch waits for the last of its bindings.
        let waits = |branch: &BranchId| {
            let all = self.bindings.list();
            all.iter().any(|binding| {
                let target = binding.target.as_deref();
                target.is_some_and(|target| target.branch == *branch) && failed(&binding.spec.name)
            })
        };
        self.renewed()
            .retain(|branch, _| waits(branch) || !renewed.contains(branch));
        let mut failures = applied.failures.iter();
        match failures.any(|(_, error)| error.is_failed_operation()) {
            true => self.operation_failures.fetch_add(1, Ordering::Relaxed),
            false => self.operation_failures.swap(0, Ordering::Relaxed),
        };
        if applied.failures.is_empty() {
            self.note_ready();
            tracing::info!("the world is as broker.toml declares it");
        }
        Ok(applied)
    }

    fn note_ready(&self) {
        if self.bindings.are_ready() {
            self.was_ready
                .send_if_modified(|was| !std::mem::replace(was, true));
        }
    }
}

/// Bindings that are held back. One that is dropped before they were announced
/// again, because the change was cut off, has an apply do so.
struct Held<'a> {
    unsettled: Option<&'a Notify>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(unsettled) = self.unsettled {
            unsettled.notify_one();
        }
    }
}
