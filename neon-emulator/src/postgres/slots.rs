//! Replication slots: what keeps the WAL that a standby has yet to take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use neon_api::EndpointId;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::admin::AdminError;

/// The primary may take a moment to see that a standby is gone.
const DROP_SECONDS_MAX: u64 = 10;
const DROP_RETRY_MS: u64 = 20;

/// The slot on the primary that keeps an endpoint's WAL. Only the endpoint's
/// own primary has it: a server of another branch, which has the same system
/// identifier and timeline, turns the standby away.
pub(crate) fn name(endpoint: &EndpointId) -> String {
    endpoint.as_str().replace('-', "_")
}

/// Where a stopped primary keeps a slot.
pub(crate) fn folder(data: &Path, slot: &str) -> PathBuf {
    data.join("pg_replslot").join(slot)
}

/// Makes a slot that keeps the WAL from now on. One that an earlier standby had
/// may have lost its WAL: it is no use.
pub(crate) async fn make(primary: &Client, slot: &str) -> Result<(), AdminError> {
    remove(primary, slot).await?;
    primary
        .execute(
            "SELECT pg_create_physical_replication_slot($1, immediately_reserve => true)",
            &[&slot],
        )
        .await
        .map(|_| ())
        .map_err(AdminError::at(format!("make the replication slot {slot}")))
}

/// Drops a slot whose standby has ended. One that is gone is no error.
pub(crate) async fn remove(primary: &Client, slot: &str) -> Result<(), AdminError> {
    let deadline = Instant::now() + Duration::from_secs(DROP_SECONDS_MAX);
    loop {
        let dropped = primary
            .execute(
                "SELECT pg_drop_replication_slot(slot_name) \
                 FROM pg_replication_slots WHERE slot_name = $1",
                &[&slot],
            )
            .await;
        match dropped {
            Err(error)
                if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(DROP_RETRY_MS)).await;
            }
            dropped => {
                return dropped
                    .map(|_| ())
                    .map_err(AdminError::at(format!("drop the replication slot {slot}")));
            }
        }
    }
}

/// Drops the slots of standbys that do not run: what an accident left. Slots
/// that callers made have other names than endpoints.
pub(crate) async fn remove_unused(primary: &Client, used: &[String]) -> Result<(), AdminError> {
    let rows = primary
        .query(
            "SELECT slot_name::text FROM pg_replication_slots \
             WHERE slot_type = 'physical' AND slot_name::text <> ALL($1) \
               AND slot_name ~ '^ep_[a-z]+_[a-z]+_[a-z0-9]{8}$'",
            &[&used],
        )
        .await
        .map_err(AdminError::at("list the replication slots"))?;
    for row in rows {
        let slot: String = row
            .try_get(0)
            .map_err(AdminError::at("list the replication slots"))?;
        remove(primary, &slot).await?;
    }
    Ok(())
}
