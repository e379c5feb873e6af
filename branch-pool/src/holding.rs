//! What a pool has in its hands: a lease, and the generation it leads to.
//!
//! What is kept here, and who may change it: both belong to the upkeep alone, by way of
//! its [`Turns`](crate::turns::Turns). Checkouts see them through [`Current`], which
//! only this writes.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::channels::Current;
use crate::error::UriError;
use crate::generation::Generation;
use crate::lease::{Destination, Lease};
use crate::usage::Hold;
use crate::{LeaseTarget, Options};

/// See the module.
pub(crate) struct Holding {
    target: LeaseTarget,
    options: Options,
    current: watch::Sender<Current>,
    lease: Option<Lease>,
    generation: Option<Opened>,
    /// When new checkouts were turned over to it.
    began: Option<Instant>,
    hold: Option<Hold>,
}

/// A generation, and what it says of its connections. What an older one says is over.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) generation: Arc<Generation>,
    doubts: mpsc::Receiver<String>,
}

impl Opened {
    /// Errors: a URI that cannot be used.
    pub(crate) fn at(destination: &Destination, options: &Options) -> Result<Self, UriError> {
        // One is enough: a second doubt says what the first did.
        let (sender, doubts) = mpsc::channel(1);
        Ok(Self {
            generation: Arc::new(Generation::open(destination, options, sender)?),
            doubts,
        })
    }
}

impl Holding {
    /// Nothing yet.
    pub(crate) fn new(
        target: LeaseTarget,
        options: Options,
        current: watch::Sender<Current>,
    ) -> Self {
        Self {
            target,
            options,
            current,
            lease: None,
            generation: None,
            began: None,
            hold: None,
        }
    }

    /// The lease.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The generation.
    pub(crate) fn generation(&self) -> Option<&Arc<Generation>> {
        self.generation.as_ref().map(|opened| &opened.generation)
    }

    /// Since when new checkouts use it.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Whether checkouts are to wait.
    pub(crate) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// Holds this lease from now on, new or renewed.
    pub(crate) fn keep(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.publish();
    }

    /// Has checkouts wait, or no more.
    pub(crate) fn pause(&mut self, hold: Option<Hold>) {
        self.hold = hold;
        self.publish();
    }

    /// The generation of a destination, `prepared` if that is it; `None`: it is the one
    /// there is.
    ///
    /// Errors: a URI that cannot be used.
    pub(crate) fn other(
        &self,
        destination: &Destination,
        prepared: Option<Opened>,
    ) -> Result<Option<Opened>, UriError> {
        let present = self.generation();
        if let Some(present) = present.filter(|present| present.serves(destination)) {
            present.resize(destination, &self.options);
            return Ok(None);
        }
        match prepared.filter(|prepared| prepared.generation.serves(destination)) {
            Some(prepared) => Ok(Some(prepared)),
            None => Opened::at(destination, &self.options).map(Some),
        }
    }

    /// Turns new checkouts over. Returns the generation before, which is closed: who
    /// waits on it looks again, and what runs on it finishes.
    pub(crate) fn turn_over(&mut self, new: Opened) -> Option<Arc<Generation>> {
        tracing::info!(
            target = %self.target,
            generation = new.generation.number,
            branch = new.generation.branch,
            "new checkouts use this branch"
        );
        let old = self.generation.replace(new);
        self.began = Some(Instant::now());
        // First the new one, then close.
        self.publish();
        let old = old.map(|opened| opened.generation);
        if let Some(old) = &old {
            old.close();
        }
        old
    }

    /// Why the next connection is refused that puts the lease in doubt. Safe to
    /// drop and to call again.
    pub(crate) async fn doubt(&mut self) -> String {
        let reason = match &mut self.generation {
            Some(opened) => opened.doubts.recv().await,
            None => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// No more checkouts, for good. Returns the lease, to be released.
    pub(crate) fn close(&mut self) -> Option<Lease> {
        self.current.send_replace(Current::Closed);
        if let Some(generation) = self.generation() {
            generation.close();
        }
        self.lease.take()
    }

    fn publish(&self) {
        if let (Some(lease), Some(opened)) = (&self.lease, &self.generation) {
            self.current.send_replace(Current::Leased {
                generation: Arc::clone(&opened.generation),
                expires_at: lease.expires_at,
                expire_time: lease.expire_time,
                hold: self.hold,
            });
        }
    }
}
