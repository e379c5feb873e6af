//! What a pool has in its hands: a lease, and the generation it leads to.
//!
//! What is kept here, and who may change it: both belong to the upkeep alone.
//! Checkouts see them through [`Current`], which only this writes.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::channels::Current;
use crate::error::UriError;
use crate::generation::Generation;
use crate::lease::{Destination, Grant, Lease};
use crate::{Binding, Options, PoolState};

/// See the module.
pub(crate) struct Holding {
    binding: Binding,
    options: Options,
    current: watch::Sender<Current>,
    lease: Option<Lease>,
    generation: Option<Arc<Generation>>,
    /// The generation's: what an older one says of its connections is over.
    doubts: mpsc::Receiver<String>,
}

/// What a new lease changed.
#[derive(Debug)]
pub(crate) struct Taken {
    /// True when it leads elsewhere than the one before.
    pub(crate) turned_over: bool,
    /// The lease before, if it was another one.
    pub(crate) former: Option<Lease>,
}

impl Holding {
    /// Nothing yet.
    pub(crate) fn new(binding: Binding, options: Options, current: watch::Sender<Current>) -> Self {
        Self {
            binding,
            options,
            current,
            lease: None,
            generation: None,
            doubts: mpsc::channel(1).1,
        }
    }

    /// The lease.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Holds a new lease instead of the one there was.
    ///
    /// Errors: a URI that cannot be used. All is as before, then.
    pub(crate) fn take(&mut self, grant: Grant) -> Result<Taken, UriError> {
        let new = self.new_generation(&grant.destination)?;
        let former = self.lease.clone();
        let former = former.filter(|former| former.name != grant.lease.name);
        let turned_over = new.is_some();
        self.set(grant.lease, new);
        Ok(Taken {
            turned_over,
            former,
        })
    }

    /// Holds the lease as it was renewed.
    pub(crate) fn renew(&mut self, lease: Lease) {
        self.set(lease, None);
    }

    /// Turns new checkouts over to where the lease leads now, if that is
    /// elsewhere: true then.
    ///
    /// Errors: a URI that cannot be used. All is as before, then.
    pub(crate) fn follow(&mut self, destination: &Destination) -> Result<bool, UriError> {
        let Some(lease) = self.lease.clone() else {
            return Ok(false);
        };
        let new = self.new_generation(destination)?;
        let turned_over = new.is_some();
        self.set(lease, new);
        Ok(turned_over)
    }

    /// Why the next connection is refused that puts the lease in doubt. Safe to
    /// drop and to call again.
    pub(crate) async fn doubt(&mut self) -> String {
        match self.doubts.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// What the pool says of itself, as of now.
    pub(crate) fn state(&self, last_error: Option<String>) -> PoolState {
        PoolState::of(self.lease.as_ref(), self.generation.as_deref(), last_error)
    }

    /// No more checkouts, for good. Returns the lease, to be released.
    pub(crate) fn close(&mut self) -> Option<Lease> {
        self.current.send_replace(Current::Closed);
        if let Some(generation) = &self.generation {
            generation.pool.close();
        }
        self.lease.take()
    }

    /// The generation of a destination; `None`: it is the one there is.
    fn new_generation(
        &mut self,
        destination: &Destination,
    ) -> Result<Option<Arc<Generation>>, UriError> {
        let present = self.generation.as_ref();
        if let Some(present) = present.filter(|present| present.serves(destination)) {
            present.resize(destination, &self.options);
            return Ok(None);
        }
        // One is enough: a second doubt says what the first did.
        let (sender, doubts) = mpsc::channel(1);
        let new = Generation::open(destination, &self.options, sender)?;
        self.doubts = doubts;
        tracing::info!(
            binding = %self.binding, generation = new.number, branch = new.branch,
            "new checkouts use this branch"
        );
        Ok(Some(Arc::new(new)))
    }

    fn set(&mut self, lease: Lease, new: Option<Arc<Generation>>) {
        let old = new.and_then(|new| self.generation.replace(new));
        // First the new one, then close: who waits on the old one looks again.
        if let Some(generation) = &self.generation {
            self.current.send_replace(Current::Leased {
                generation: Arc::clone(generation),
                expires_at: lease.expires_at,
                expire_time: lease.expire_time,
            });
        }
        self.lease = Some(lease);
        if let Some(old) = old {
            old.pool.close();
        }
    }
}
