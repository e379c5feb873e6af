//! Many callers at once for one branch that is not there.

use std::time::Instant;

use anyhow::ensure;
use suite::Faults;
use tokio::task::JoinSet;

use super::client::Client;
use super::{Place, Sizes};
use crate::table::{Row, Table, milliseconds};

/// The server takes 200 calls at a time on each.
const CONNECTIONS: usize = 50;
const BRANCHES: &str = "/projects/{project_id}/branches";

pub(super) async fn measure(place: &Place, sizes: &Sizes, rows: &mut Table) -> anyhow::Result<()> {
    let clients = Client::connect(place.broker.address(), CONNECTIONS).await?;
    let faults = Faults::of(&place.emulator);
    let before = faults.count_all("POST", BRANCHES).await?;
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for client in clients.iter().cycle().take(sizes.callers) {
        let mut client = client.clone();
        callers.spawn(async move {
            let operation = client.create("bench-crowd").await?;
            let answered = milliseconds(begun);
            anyhow::Ok((answered, client.branch_of(operation).await?))
        });
    }
    let (mut answered, mut branches) = (0.0_f64, Vec::new());
    while let Some(caller) = callers.join_next().await {
        let (at, branch) = caller??;
        answered = answered.max(at);
        branches.push(branch);
    }
    let all = milliseconds(begun);
    branches.dedup();
    ensure!(branches.len() == 1, "one branch for all: {branches:?}");
    let creates = faults.count_all("POST", BRANCHES).await? - before;

    let crowd = format!("{} callers of one missing branch", sizes.callers);
    let row = Row::new(
        format!("{crowd}: creates at the emulator"),
        vec![creates as f64],
    );
    rows.push(row.unit("calls").at_most(1.0));
    rows.push(Row::new(
        format!("{crowd}: until all are answered"),
        vec![answered],
    ));
    rows.push(Row::new(format!("{crowd}: until all have it"), vec![all]));
    Ok(())
}
