//! Ephemeral branches: one that waited, and beside it one that is made at that moment.

use std::time::Instant;

use anyhow::ensure;
use proto::broker::v1::ApplyRequest;
use suite::eventually;

use super::client::BINDING;
use super::{Place, Sizes};
use crate::table::{Row, Table, milliseconds};

const WARM_MS_MAX: f64 = 2.0;
/// How many wait.
const SIZE: i64 = 4;
/// A parent that has no pool.
const COLD_PARENT: &str = "services/users/versions/v2";

/// One caller, one branch after another, each given back before the next.
pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let before = place.config.text()?;
    let pool = format!("[warm.bench]\nparent = \"{BINDING}\"\nsize = {SIZE}\n");
    place.config.write(&format!("{before}\n{pool}"))?;
    apply(place).await?;
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    let mut client = place.client(0);
    for _ in 0..sizes.branches {
        is_full(place).await?;
        let begun = Instant::now();
        let lease = client.acquire_ephemeral(BINDING).await?;
        warm.push(milliseconds(begun));
        client.release(lease).await?;
        // The pool is full: nothing else is made meanwhile.
        is_full(place).await?;
        let begun = Instant::now();
        let lease = client.acquire_ephemeral(COLD_PARENT).await?;
        cold.push(milliseconds(begun));
        client.release(lease).await?;
    }
    rows.push(Row::new("AcquireLease, a branch that waited", warm).below(WARM_MS_MAX));
    let what = "beside it: AcquireLease, a branch made at that moment";
    rows.push(Row::new(what, cold));
    place.config.write(&before)?;
    apply(place).await
}

async fn apply(place: &Place) -> anyhow::Result<()> {
    let mut config = place.broker.config().await?;
    config.apply(ApplyRequest::default()).await?;
    Ok(())
}

/// Waits until as many wait as there are to be, and those that were given back are gone.
async fn is_full(place: &Place) -> anyhow::Result<()> {
    let session = place.database.session(&place.database_emulator).await?;
    let count = "SELECT count(*) FILTER (WHERE pool IS NOT NULL AND lease IS NULL
                                           AND making_until IS NULL AND intent = 'own'),
                        count(*) FILTER (WHERE pool IS NOT NULL OR lease IS NOT NULL)
                 FROM broker.branches WHERE intent <> 'gone'";
    eventually("the pool is full", async || {
        let row = session.query_one(count, &[]).await?;
        let (ready, all): (i64, i64) = (row.get(0), row.get(1));
        ensure!(ready == SIZE && all == SIZE, "{ready} of {all}");
        Ok(())
    })
    .await
}
