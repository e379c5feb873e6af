//! Who works in the background. Of the brokers that share a database one does: it
//! has an advisory lock, which ends with its session. A broker that lost it without
//! knowing yet could still write; so who takes over raises the epoch, and each
//! write of the work in the background is refused when the epoch is not its own.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::database::{Error, Session};
use crate::postgres::OwnerUri;
use crate::text::one_line;

/// How often to ask for the lock, and, having it, whether the session still lives,
/// in milliseconds.
const ASK_MS: u64 = 500;
/// How often the lock was asked for before its holder counts as somebody who leads.
const ASKED_MIN: u32 = 3;
/// How long an answer may take, in milliseconds: who does not hear for so long
/// leads no more.
const ANSWER_MS_MAX: u64 = 3_000;

/// Stands for election, for ever.
pub(super) async fn stand(uri: OwnerUri, shared: Arc<Shared>) {
    loop {
        if let Err(error) = lead(&uri, &shared).await {
            tracing::debug!(error = %one_line(&error), "the election session ended");
        }
        if shared.leads(None) {
            tracing::warn!("no longer works in the background: another broker may");
        }
        tokio::time::sleep(Duration::from_millis(ASK_MS)).await;
    }
}

/// Asks for the lock, and has it until an error, or until another has taken over.
async fn lead(uri: &OwnerUri, shared: &Shared) -> Result<(), Error> {
    let pause = || tokio::time::sleep(Duration::from_millis(ASK_MS));
    while !shared.is_loaded() {
        // Whose tables may not be there yet.
        pause().await;
    }
    let mut session = within(Session::open(uri)).await?;
    let mut asked = 0;
    while !within(session.try_lock()).await? {
        asked += 1;
        // The session of one that was killed may live for a moment.
        if asked >= ASKED_MIN {
            shared.another_leads();
        }
        pause().await;
    }
    let epoch = within(session.take_over()).await?;
    tracing::info!(epoch, "works in the background from now on");
    shared.leads(Some(epoch));
    let mut leader = shared.leader.subscribe();
    loop {
        tokio::select! {
            () = pause() => {}
            // A write was refused: the epoch is another's.
            _ = leader.wait_for(Option::is_none) => return Ok(()),
        }
        if within(session.look()).await?.0.epoch != epoch {
            return Ok(());
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let limit = Duration::from_millis(ANSWER_MS_MAX);
    crate::postgres::bounded(limit, "hold the lock of the work in the background", work).await
}
