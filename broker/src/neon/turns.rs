//! One at a time, in the order in which they came; what callers wait on before
//! what goes on in the background.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// How many may wait for one turn. Each is a call that somebody made.
const WAITING_MAX: usize = 10_000;

/// Who waits for what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A caller.
    Caller,
    /// Nobody who would go away.
    Background,
}

/// More wait than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

/// A queue for a turn.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    callers: VecDeque<oneshot::Sender<Turn>>,
    background: VecDeque<oneshot::Sender<Turn>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn(Arc<Turns>);

impl Turns {
    /// Waits for a turn. Who stops waiting leaves the queue.
    pub(super) async fn take(self: &Arc<Self>, priority: Priority) -> Result<Turn, Crowded> {
        let waiting = {
            let mut queue = self.queue();
            if !queue.taken {
                queue.taken = true;
                return Ok(Turn(Arc::clone(self)));
            }
            let line = match priority {
                Priority::Caller => &mut queue.callers,
                Priority::Background => &mut queue.background,
            };
            if line.len() >= WAITING_MAX {
                // Those who have gone away hold no place.
                line.retain(|waiting| !waiting.is_closed());
            }
            if line.len() >= WAITING_MAX {
                return Err(Crowded);
            }
            let (give, waiting) = oneshot::channel();
            line.push_back(give);
            waiting
        };
        // A turn is given to each who is in the queue, by whoever had it before.
        waiting.await.map_err(|_| Crowded)
    }

    /// How many wait, callers and the background.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let queue = self.queue();
        let open = |waiting: &VecDeque<oneshot::Sender<Turn>>| {
            let open = waiting.iter().filter(|one| !one.is_closed());
            open.count()
        };
        (open(&queue.callers), open(&queue.background))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let next = self.callers.pop_front();
            let next = next.or_else(|| self.background.pop_front())?;
            if !next.is_closed() {
                return Some(next);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut queue = self.0.queue();
            let next = queue.next();
            queue.taken = next.is_some();
            next
        };
        if let Some(next) = next {
            // Who has gone away at this moment drops the turn, which passes it on.
            let _ = next.send(Turn(Arc::clone(&self.0)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Begins to wait, and says its name in `order` when its turn has come.
    fn wait(
        turns: &Arc<Turns>,
        priority: Priority,
        name: &'static str,
        order: &Arc<Mutex<Vec<&'static str>>>,
    ) -> tokio::task::JoinHandle<()> {
        let (turns, order) = (Arc::clone(turns), Arc::clone(order));
        tokio::spawn(async move {
            let _turn = turns.take(priority).await.unwrap();
            order.lock().unwrap().push(name);
        })
    }

    #[tokio::test]
    async fn callers_come_first_and_each_in_its_order() {
        let turns = Arc::new(Turns::default());
        let order = Arc::default();
        let first = turns.take(Priority::Background).await.unwrap();
        let mut tasks = Vec::new();
        for (priority, name) in [
            (Priority::Background, "background"),
            (Priority::Caller, "one"),
            (Priority::Caller, "gone"),
            (Priority::Caller, "two"),
        ] {
            tasks.push(wait(&turns, priority, name, &order));
            tokio::task::yield_now().await;
        }
        tasks.remove(2).abort();
        tokio::task::yield_now().await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["one", "two", "background"]);
        assert!(!turns.queue().taken);
    }

    #[tokio::test]
    async fn who_goes_away_with_a_turn_given_passes_it_on() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(Priority::Caller).await.unwrap();
        let mut waiting = Box::pin(turns.take(Priority::Caller));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        drop(waiting);
        let order = Arc::default();
        wait(&turns, Priority::Background, "next", &order)
            .await
            .unwrap();
        assert_eq!(*order.lock().unwrap(), ["next"]);
    }
}
