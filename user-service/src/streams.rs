//! Streams: the rows of one query, gathered into pieces as they come.
//!
//! Nothing is held but a few pieces. Who takes them slowly makes the reading wait, that
//! makes the connection's socket fill, and that makes Postgres wait. A task reads, so
//! that one who takes nothing at all can be given up: their connection is needed, and
//! the rows that Postgres may not clean up meanwhile grow.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use branch_pool::{Effect, Work, WorkError};
use diesel::{QueryResult, result::Error as QueryError};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::{Stream, StreamExt};

use crate::{
    error::Error,
    store::Rows,
    user::{User, UserId},
};

/// How large a piece gets, in bytes of texts and numbers: about what is sent at a time.
/// The user that reaches it is in it.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// The most users in one.
const PIECE_USERS_MAX: usize = 1_000;
/// The most pieces that wait to be taken: one is sent while one is gathered.
const PIECES_WAITING_MAX: usize = 2;
/// How long nothing may be taken, in seconds.
const STALL_SECONDS_MAX: u64 = 60;

/// All users of a query, in pieces. Dropped, it gives the query up.
#[derive(Debug)]
pub struct Pieces {
    pieces: mpsc::Receiver<Vec<User>>,
    /// None when how it ended was told.
    reading: Option<JoinHandle<Result<(), Error>>>,
}

impl Pieces {
    /// Begins to read. `work`: the connection that the rows come over.
    pub(crate) fn begin(action: &'static str, rows: Rows, work: Work) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let reading = tokio::spawn(read(action, rows, work, sender));
        Self {
            pieces,
            reading: Some(reading),
        }
    }
}

impl Stream for Pieces {
    type Item = Result<Vec<User>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(piece) = ready!(self.pieces.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        // That no more come does not say that these were all.
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let ended = ready!(pin!(reading).poll(cx));
        self.reading = None;
        Poll::Ready(match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            Err(source) => Some(Err(Error::BrokenStream { source })),
        })
    }
}

/// Why not all was sent.
#[derive(Debug)]
enum Ended {
    FailedQuery(QueryError),
    /// The receiver takes nothing.
    Stalled,
    /// The receiver is gone.
    Unwanted,
}

/// Sends all rows, and gives the connection back; or gives it up, when rows still come.
async fn read(
    action: &'static str,
    mut rows: Rows,
    mut work: Work,
    pieces: mpsc::Sender<Vec<User>>,
) -> Result<(), Error> {
    let sent = send(&mut rows, &pieces).await;
    drop(rows);
    match sent {
        Ok(()) => {
            drop(work.finish());
            Ok(())
        }
        Err(Ended::FailedQuery(source)) => {
            // After a row that cannot be read, others may come.
            let more = matches!(source, QueryError::DeserializationError(_));
            let error = WorkError::of(source, &mut work);
            match error {
                WorkError::Failed(_) if more => drop(work),
                WorkError::Failed(_) => drop(work.finish()),
                _ if work.is_broken() => work.finish().died(),
                _ => drop(work),
            }
            Err(Error::of_work(action, Effect::Read, error))
        }
        Err(Ended::Stalled) => Err(Error::StalledStream {
            waited: Duration::from_secs(STALL_SECONDS_MAX),
        }),
        // Nobody hears it.
        Err(Ended::Unwanted) => Ok(()),
    }
}

async fn send<R>(rows: &mut R, pieces: &mpsc::Sender<Vec<User>>) -> Result<(), Ended>
where
    R: Stream<Item = QueryResult<User>> + Unpin,
{
    let mut users = 0;
    loop {
        // As many as the last: they are of a size.
        let mut piece = Vec::with_capacity(users);
        let more = tokio::select! {
            biased;
            () = pieces.closed() => return Err(Ended::Unwanted),
            more = gather(rows, &mut piece) => more.map_err(Ended::FailedQuery)?,
        };
        users = piece.len();
        if users > 0 {
            let waited = Duration::from_secs(STALL_SECONDS_MAX);
            match timeout(waited, pieces.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Ended::Unwanted),
                Err(_) => return Err(Ended::Stalled),
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// Fills a piece; false at the end of the rows.
async fn gather<R>(rows: &mut R, piece: &mut Vec<User>) -> QueryResult<bool>
where
    R: Stream<Item = QueryResult<User>> + Unpin,
{
    let mut bytes = 0;
    while bytes < PIECE_BYTES_MAX && piece.len() < PIECE_USERS_MAX {
        let Some(user) = rows.next().await else {
            return Ok(false);
        };
        let user = user?;
        let city = user.city.as_deref().unwrap_or_default();
        bytes += user.name.len() + user.email.len() + city.len() + size_of::<UserId>();
        piece.push(user);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(count: i32, name: &'static str) -> impl Iterator<Item = QueryResult<User>> {
        (1..=count).map(move |id| {
            Ok(User {
                id: UserId::of_row(id),
                name: name.to_owned(),
                email: String::new(),
                age: None,
                city: None,
            })
        })
    }

    fn reading(
        rows: impl Iterator<Item = QueryResult<User>> + Send + 'static,
    ) -> (mpsc::Receiver<Vec<User>>, JoinHandle<Result<(), Ended>>) {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let mut rows = tokio_stream::iter(rows);
        let task = tokio::spawn(async move { send(&mut rows, &sender).await });
        (pieces, task)
    }

    #[tokio::test]
    async fn pieces_are_bounded_by_users_and_by_bytes_and_hold_everybody() {
        let long: &str = "x".repeat(200).leak();
        // 4 bytes of each are the id.
        for (count, name, largest) in [
            (0, "", None),
            (1, "", Some(1)),
            (2_500, "", Some(PIECE_USERS_MAX)),
            (2_000, "", Some(PIECE_USERS_MAX)),
            (1_000, long, Some(PIECE_BYTES_MAX.div_ceil(204))),
        ] {
            let (mut pieces, task) = reading(users(count, name));
            let (mut ids, mut sizes) = (Vec::new(), Vec::new());
            while let Some(piece) = pieces.recv().await {
                sizes.push(piece.len());
                ids.extend(piece.iter().map(|user| user.id.get()));
            }
            assert!(matches!(task.await, Ok(Ok(()))));
            assert!(ids.into_iter().eq(1..=count), "{count}");
            assert_eq!(sizes.iter().max().copied(), largest, "{count}");
            assert!(!sizes.contains(&0), "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_is_not_read() {
        use std::sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        };
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let rows = users(1_000_000, "").inspect(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (mut pieces, task) = reading(rows);
        let first = pieces.recv().await.map(|piece| piece.len());
        assert_eq!(first, Some(PIECE_USERS_MAX));
        // It reads for as long as it can.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let held = read.load(Ordering::Relaxed) - PIECE_USERS_MAX;
        let held_max = (PIECES_WAITING_MAX + 1) * PIECE_USERS_MAX;
        assert!(held <= held_max, "{held}");
        drop(pieces);
        assert!(matches!(task.await, Ok(Err(Ended::Unwanted))));
        let held = read.load(Ordering::Relaxed) - PIECE_USERS_MAX;
        assert!(held <= held_max + PIECE_USERS_MAX, "{held}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_after_a_minute() {
        let begun = tokio::time::Instant::now();
        let (mut pieces, task) = reading(users(1_000_000, ""));
        for _ in 0..10 {
            // Almost too slow.
            tokio::time::advance(Duration::from_secs(STALL_SECONDS_MAX - 1)).await;
            assert!(pieces.recv().await.is_some());
        }
        assert!(!task.is_finished());
        assert!(matches!(task.await, Ok(Err(Ended::Stalled))));
        let waited = begun.elapsed().as_secs();
        assert_eq!(waited, 10 * (STALL_SECONDS_MAX - 1) + STALL_SECONDS_MAX);
    }

    #[tokio::test]
    async fn one_that_waits_for_rows_ends_when_nobody_waits_for_it() {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let task = tokio::spawn(async move {
            let mut rows = tokio_stream::pending::<QueryResult<User>>();
            send(&mut rows, &sender).await
        });
        tokio::task::yield_now().await;
        drop(pieces);
        assert!(matches!(task.await, Ok(Err(Ended::Unwanted))));
    }

    #[tokio::test]
    async fn an_end_before_the_end_is_an_error() {
        let rows = users(3, "").chain([Err(QueryError::BrokenTransactionManager)]);
        let (mut receiver, task) = reading(rows);
        assert!(receiver.recv().await.is_none());
        assert!(matches!(task.await, Ok(Err(Ended::FailedQuery(_)))));

        let stream = |reading: JoinHandle<Result<(), Error>>| Pieces {
            pieces: mpsc::channel(1).1,
            reading: Some(reading),
        };
        let stalled = Error::StalledStream {
            waited: Duration::from_secs(1),
        };
        let mut failed = stream(tokio::spawn(async { Err(stalled) }));
        assert!(matches!(
            failed.next().await,
            Some(Err(Error::StalledStream { .. }))
        ));
        assert!(failed.next().await.is_none());
        let aborted = tokio::spawn(std::future::pending());
        aborted.abort();
        let mut broken = stream(aborted);
        assert!(matches!(
            broken.next().await,
            Some(Err(Error::BrokenStream { .. }))
        ));
        let mut whole = stream(tokio::spawn(async { Ok(()) }));
        assert!(whole.next().await.is_none());
    }
}
