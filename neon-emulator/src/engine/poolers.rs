//! The poolers that run: one for each active endpoint whose pooled address is
//! used.

use std::sync::Arc;

use neon_api::EndpointId;

use super::ports::port_for_a_run;
use super::{Engine, chain};
use crate::gateway::Refusal;
use crate::pooler::{Pooler, Settings};
use crate::postgres::Server;

/// The port of a run may be taken before the pooler has it.
const PORT_ATTEMPTS_MAX: usize = 3;

/// The pooler of one endpoint.
pub(super) type PoolerSlot = tokio::sync::Mutex<Option<Pooler>>;

impl Engine {
    /// The port where pooled clients of a server are served: its pooler's, which
    /// is started for the first of them. Without PgBouncer it is the server's own.
    /// `None`: the server runs no more.
    pub(super) async fn pooled_port(
        &self,
        endpoint: &EndpointId,
        server_port: u16,
    ) -> Result<Option<u16>, Refusal> {
        if self.programs.pooler.is_none() {
            return Ok(Some(server_port));
        }
        let engine = self.me.upgrade().ok_or(Refusal::Stopping)?;
        let endpoint = endpoint.clone();
        // In a task of its own: a client that hangs up meanwhile leaves no pooler
        // that nobody knows.
        let started = self
            .tasks
            .spawn(async move { engine.start_pooler(&endpoint, server_port).await });
        started.await.unwrap_or(Err(Refusal::Stopping))
    }

    async fn start_pooler(
        &self,
        endpoint: &EndpointId,
        server_port: u16,
    ) -> Result<Option<u16>, Refusal> {
        let Some(program) = &self.programs.pooler else {
            return Ok(Some(server_port));
        };
        let slot = self.pooler_slot(endpoint);
        let mut slot = slot.lock().await;
        // Held by who ends them all: none is started after that.
        if *self.stopping.borrow() {
            return Err(Refusal::Stopping);
        }
        if let Some(pooler) = &*slot {
            if pooler.serves(server_port) {
                return Ok(Some(pooler.port()));
            }
            pooler.end().await;
            *slot = None;
        }
        // Who stops a server takes it out of the map, then ends its pooler: none
        // is started after that.
        if self.server(endpoint).map(|server| server.port()) != Some(server_port) {
            return Ok(None);
        }
        let folder = self.poolers_folder().join(endpoint.as_str());
        let log = self.data.join("log").join(format!("{endpoint}.pooler.log"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = port_for_a_run().map_err(|error| Refusal::NotStarted(chain(&error)))?;
            let settings = Settings {
                port,
                sockets: &self.sockets,
                server_port,
                certificate: &self.certificates.certificate,
                key: &self.certificates.key,
                folder: &folder,
                log: &log,
            };
            match Pooler::start(program, &self.programs.user, &settings).await {
                Ok(pooler) => {
                    *slot = Some(pooler);
                    return Ok(Some(port));
                }
                Err(error) if attempts == PORT_ATTEMPTS_MAX => {
                    return Err(Refusal::NotStarted(chain(&error)));
                }
                Err(_) => {}
            }
        }
    }

    /// True when pooled addresses are served by a pooler.
    pub(crate) fn has_pooler(&self) -> bool {
        self.programs.pooler.is_some()
    }

    /// The port of the endpoint's pooler, if it runs.
    pub(super) async fn running_pooler(
        &self,
        endpoint: &EndpointId,
        server: &Server,
    ) -> Option<u16> {
        if self.programs.pooler.is_none() {
            return Some(server.port());
        }
        let slot = self.pooler_slot(endpoint);
        let slot = slot.lock().await;
        let pooler = slot.as_ref()?;
        pooler.serves(server.port()).then(|| pooler.port())
    }

    /// Ends the pooler of an endpoint whose server stops, or has died.
    pub(super) async fn end_pooler(&self, endpoint: &EndpointId) {
        let slot = self.pooler_slot(endpoint);
        if let Some(pooler) = slot.lock().await.take() {
            pooler.end().await;
        }
    }

    pub(super) async fn end_all_poolers(&self) {
        for slot in self.poolers.all() {
            if let Some(pooler) = slot.lock().await.take() {
                pooler.end().await;
            }
        }
        // What is left is removed at the next start.
        let _ = std::fs::remove_dir_all(self.poolers_folder());
    }

    /// Where an endpoint's pooler is, if it runs. Held while it is started or
    /// ended; that of one endpoint holds up no other.
    fn pooler_slot(&self, endpoint: &EndpointId) -> Arc<PoolerSlot> {
        self.poolers.of(endpoint, |slot| {
            slot.try_lock().is_ok_and(|slot| slot.is_none())
        })
    }

    pub(super) fn poolers_folder(&self) -> std::path::PathBuf {
        self.data.join("poolers")
    }
}
