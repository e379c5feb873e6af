//! Following a lease: its watch, kept open in a task of its own.
//!
//! The broker says where the lease leads at once and again whenever that
//! changes. A watch that breaks is opened again, with a back-off, and says at
//! once what was missed; the pool goes on working meanwhile.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::announcement::{Announcement, Reports};
use crate::backoff;
use crate::error::{LeaseError, chain};
use crate::lease::Broker;

/// A watch that held for this long was a good one: the next begins with the
/// shortest wait again.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// What is heard of a lease.
#[derive(Debug)]
pub(crate) enum News {
    /// What the broker says, and where to answer it.
    Announced(Announcement, Reports),
    /// The broker knows the lease no more. The watch has ended.
    Gone,
}

/// Follows one lease, or none. Its watch ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    news: mpsc::Receiver<News>,
}

impl Follower {
    /// Of no lease: nothing is heard.
    pub(crate) fn idle() -> Self {
        let (_, news) = mpsc::channel(1);
        Self { news }
    }

    /// Of this lease.
    pub(crate) fn of(broker: Broker, lease: String) -> Self {
        // What comes while one is being acted on waits at the broker, where the
        // newest takes the place of what is older.
        let (sender, news) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = keep_open(broker, &lease, &sender) => {}
            }
        });
        Self { news }
    }

    /// What is heard next. Safe to drop and to call again.
    pub(crate) async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

async fn keep_open(mut broker: Broker, lease: &str, news: &mpsc::Sender<News>) {
    let mut failures = 0_u32;
    loop {
        let begun = Instant::now();
        let error = relay(&mut broker, lease, news).await;
        if error.is_not_found() {
            // An error: nobody listens any more.
            let _ = news.send(News::Gone).await.is_ok();
            return;
        }
        if begun.elapsed() >= STEADY_AFTER {
            failures = 0;
        }
        failures = failures.saturating_add(1);
        let text = chain(&error);
        // Once an outage.
        if failures == 1 {
            tracing::warn!(
                lease,
                error = text,
                "the lease's watch broke; opening it again"
            );
        } else {
            tracing::debug!(lease, error = text, failures, "no watch yet");
        }
        sleep(backoff::after_failures(failures, error.retry_delay())).await;
    }
}

/// One watch, from its opening to what ended it.
async fn relay(broker: &mut Broker, lease: &str, news: &mpsc::Sender<News>) -> LeaseError {
    let (mut announcements, reports) = match broker.watch(lease).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        match announcements.next().await {
            Ok(announcement) => {
                let heard = News::Announced(announcement, reports.clone());
                // An error: nobody listens, and this task is about to end.
                let _ = news.send(heard).await.is_ok();
            }
            Err(error) => return error,
        }
    }
}
