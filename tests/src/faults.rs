//! Faults that the emulator is asked for, and what it was asked for by others.

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::emulator::EmulatorProcess;
use crate::http::Http;
use crate::wait::eventually;

/// The admin routes of an emulator that was started with them.
#[derive(Debug)]
pub struct Faults {
    http: Http,
}

/// A fault that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(u64);

/// A request that the emulator got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The HTTP method.
    pub method: String,
    /// The route, as `/projects/{project_id}/branches`.
    pub route: String,
    /// The path below /api/v2, with its query.
    pub path: String,
    /// The status; none when no answer was sent.
    pub status: Option<u16>,
}

/// All that can go wrong with a request, each as often as a client has to bear.
#[must_use]
pub fn request_faults() -> Vec<Value> {
    vec![
        json!({"fault": "locked", "count": 2}),
        json!({"fault": "too_many_requests", "retry_after_seconds": 1}),
        json!({"fault": "unavailable", "count": 2}),
        json!({"fault": "gateway_timeout", "after": false}),
        json!({"fault": "gateway_timeout", "after": true}),
        json!({"fault": "lost_answer"}),
        json!({"fault": "truncated"}),
        json!({"fault": "delay", "milliseconds": 1_000, "after": false}),
        json!({"fault": "delay", "milliseconds": 1_000, "after": true}),
    ]
}

impl Faults {
    /// Those of an emulator that [`EmulatorProcess::start_with_admin`] started.
    #[must_use]
    pub fn of(emulator: &EmulatorProcess) -> Self {
        Self {
            http: Http::of(emulator).admin(),
        }
    }

    /// Queues a fault for a request. `effect` has the kind and its fields:
    /// `{"fault": "gateway_timeout", "after": true}`.
    ///
    /// # Errors
    /// When the emulator refuses it.
    pub async fn on_route(
        &self,
        method: &str,
        path: &str,
        effect: Value,
    ) -> anyhow::Result<FaultId> {
        self.queue(json!({"method": method, "path": path}), effect)
            .await
    }

    /// Queues a fault for an operation, `{"fault": "operation_fails", "error":
    /// "…"}`.
    ///
    /// # Errors
    /// When the emulator refuses it.
    pub async fn on_operation(&self, action: &str, effect: Value) -> anyhow::Result<FaultId> {
        self.queue(json!({"operation": action}), effect).await
    }

    /// Forgets all that were asked for.
    ///
    /// # Errors
    /// When the emulator refuses it.
    pub async fn forget(&self) -> anyhow::Result<()> {
        self.http
            .expect(204, "DELETE", "/faults", Value::Null)
            .await?;
        Ok(())
    }

    /// Waits until a fault has happened as often as it was asked for.
    ///
    /// # Errors
    /// When it does not happen.
    pub async fn happened(&self, id: FaultId) -> anyhow::Result<()> {
        eventually("a fault has happened", async || {
            let list = self.http.expect(200, "GET", "/faults", Value::Null).await?;
            let faults = list.at("/faults").as_array().context("a list")?;
            let fault = faults.iter().find(|fault| fault["id"] == id.0);
            let fault = fault.context("the fault is there")?;
            anyhow::ensure!(fault["left"] == 0, "{fault}");
            Ok(())
        })
        .await
    }

    /// The requests so far, in the order in which they came.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn requests(&self) -> anyhow::Result<Vec<Request>> {
        let answer = self
            .http
            .expect(200, "GET", "/requests", Value::Null)
            .await?;
        let latest = answer.at("/latest").as_array().context("a list")?;
        latest
            .iter()
            .map(|entry| {
                let text = |field: &str| entry[field].as_str().map(str::to_owned);
                Ok(Request {
                    method: text("method").context("method")?,
                    route: text("route").context("route")?,
                    path: text("path").context("path")?,
                    status: entry["status"]
                        .as_u64()
                        .map(u16::try_from)
                        .transpose()
                        .context("a status")?,
                })
            })
            .collect()
    }

    /// How often a route was asked and answered with this status; `None`: not
    /// answered.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn count(
        &self,
        method: &str,
        route: &str,
        status: Option<u16>,
    ) -> anyhow::Result<u64> {
        let answer = self
            .http
            .expect(200, "GET", "/requests", Value::Null)
            .await?;
        let counts = answer.at("/counts").as_array().context("a list")?;
        let found = counts.iter().find(|entry| {
            entry["method"] == method && entry["route"] == route && entry["status"] == json!(status)
        });
        Ok(found.map_or(0, |entry| entry["count"].as_u64().unwrap_or_default()))
    }

    /// How often a route was asked, whatever came of it.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn count_all(&self, method: &str, route: &str) -> anyhow::Result<u64> {
        let answer = self
            .http
            .expect(200, "GET", "/requests", Value::Null)
            .await?;
        let counts = answer.at("/counts").as_array().context("a list")?;
        let of_route = counts
            .iter()
            .filter(|entry| entry["method"] == method && entry["route"] == route);
        Ok(of_route
            .map(|entry| entry["count"].as_u64().unwrap_or_default())
            .sum())
    }

    async fn queue(&self, target: Value, effect: Value) -> anyhow::Result<FaultId> {
        let mut fault = Map::new();
        for part in [target, effect] {
            fault.extend(part.as_object().context("an object")?.clone());
        }
        let queued = self
            .http
            .expect(201, "POST", "/faults", Value::Object(fault))
            .await?;
        Ok(FaultId(queued.at("/id").as_u64().context("an id")?))
    }
}
