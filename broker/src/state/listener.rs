//! Hears of what other brokers have written, on a session of its own. What is
//! missed meanwhile, the writer finds by itself when it looks.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::database::{Error, Session};
use crate::postgres::OwnerUri;
use crate::text::one_line;

/// Pauses between tries to open the session, in milliseconds.
const REACH_MS: u64 = 1_000;

/// Listens, for ever.
pub(super) async fn listen(uri: OwnerUri, shared: Arc<Shared>) {
    loop {
        if let Err(error) = hear(&uri, &shared).await {
            tracing::debug!(error = %one_line(&error), "the listening session ended");
        }
        tokio::time::sleep(Duration::from_millis(REACH_MS)).await;
    }
}

async fn hear(uri: &OwnerUri, shared: &Shared) -> Result<(), Error> {
    let mut session = Session::open(uri).await?;
    session.listen().await?;
    // Something may have been said before.
    shared.hear(i64::MAX);
    while let Some(version) = session.heard().await? {
        shared.hear(version);
    }
    Ok(())
}
