//! What takes long, done where it holds nobody up: on the background threads, a few at once. What
//! waits for its turn is bounded in number and in time; beyond, it is refused before it began. The
//! pieces of answers that have begun take turns of their own: neither kind waits for the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use roster_api::registry::{IfBusy, Unavailable};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Works under way per background thread: one may wait for the leader while another computes.
const AT_ONCE_PER_THREAD: usize = 2;

/// Pieces of answers that have begun, under way per background thread. Each is short, so between two
/// steps of a search there is time for several, and thousands of them hold up no search.
const PIECES_AT_ONCE_PER_THREAD: usize = 8;

/// Works that wait for their turn and may be refused. A page of a search over a million instances
/// takes about half a second of a thread: more would only wait until nobody wants their answer.
const WAITING_MAX: usize = 64;

/// The background threads and their turns.
#[derive(Debug)]
pub struct Aside {
    threads: Handle,
    turns: Semaphore,
    /// Of what waits for as long as it takes.
    turns_of_pieces: Semaphore,
    waiting: Semaphore,
    /// How long one that may be refused waits for its turn.
    patience: Duration,
    refused: AtomicU64,
    /// Of `turns` and `turns_of_pieces`.
    turns_max: usize,
}

/// How busy the background threads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsideLoad {
    /// Works and pieces of answers under way, and how many may be at once.
    pub running: usize,
    pub running_max: usize,
    /// Works that wait for their turn.
    pub waiting: usize,
    /// Works that were refused since the start.
    pub refused: u64,
}

impl Aside {
    /// `threads` are `count` in number.
    pub fn new(threads: Handle, count: usize, patience: Duration) -> Self {
        Self {
            threads,
            turns: Semaphore::new(count * AT_ONCE_PER_THREAD),
            turns_of_pieces: Semaphore::new(count * PIECES_AT_ONCE_PER_THREAD),
            waiting: Semaphore::new(WAITING_MAX),
            patience,
            refused: AtomicU64::new(0),
            turns_max: count * (AT_ONCE_PER_THREAD + PIECES_AT_ONCE_PER_THREAD),
        }
    }

    pub fn load(&self) -> AsideLoad {
        let free = self.turns.available_permits() + self.turns_of_pieces.available_permits();
        AsideLoad {
            running: self.turns_max.saturating_sub(free),
            running_max: self.turns_max,
            waiting: WAITING_MAX.saturating_sub(self.waiting.available_permits()),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Returns when `work` is done. It ends at its next pause when this is dropped. `Overloaded`: it
    /// was not begun.
    pub async fn run(
        &self,
        work: BoxFuture<'static, ()>,
        if_busy: IfBusy,
    ) -> Result<(), Unavailable> {
        let _turn = match if_busy {
            IfBusy::Refuse => self.turn_soon().await.inspect_err(|_| {
                self.refused.fetch_add(1, Ordering::Relaxed);
            })?,
            IfBusy::Wait => turn_of(&self.turns_of_pieces).await?,
        };
        let ended = AbortOnDropHandle::new(self.threads.spawn(work)).await;
        ended.map_err(|e| Unavailable::Unknown(format!("this node failed at it: {e}")))
    }

    async fn turn_soon(&self) -> Result<SemaphorePermit<'_>, Unavailable> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        let overloaded = |why: String| {
            Unavailable::Overloaded(format!("{why}; ask for less, another node, or later"))
        };
        let _place = self.waiting.try_acquire().map_err(|_| {
            overloaded(format!("{WAITING_MAX} searches and long lists wait on this node"))
        })?;
        timeout(self.patience, turn_of(&self.turns)).await.unwrap_or_else(|_| {
            let waited = self.patience;
            Err(overloaded(format!("searches and long lists of others took this node {waited:?}")))
        })
    }
}

async fn turn_of(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Unavailable> {
    // It is never closed.
    turns.acquire().await.map_err(|_| Unavailable::NotReady("this node is stopping".into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn aside(patience: Duration) -> Arc<Aside> {
        Arc::new(Aside::new(Handle::current(), 1, patience))
    }

    /// Starts works until all turns are taken; they end when told.
    async fn occupy(aside: &Arc<Aside>) -> Arc<Notify> {
        let end = Arc::new(Notify::new());
        for _ in 0..AT_ONCE_PER_THREAD {
            let (aside, end) = (aside.clone(), end.clone());
            let work = Box::pin(async move { end.notified().await });
            tokio::spawn(async move { aside.run(work, IfBusy::Refuse).await });
        }
        while aside.turns.available_permits() > 0 {
            yield_now().await;
        }
        end
    }

    fn nothing() -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }

    #[tokio::test]
    async fn only_so_many_wait_and_the_next_one_is_refused_at_once() {
        let aside = aside(LONG);
        let end = occupy(&aside).await;
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let aside = aside.clone();
                tokio::spawn(async move { aside.run(nothing(), IfBusy::Refuse).await })
            })
            .collect();
        while aside.waiting.available_permits() > 0 {
            yield_now().await;
        }
        let refused = aside.run(nothing(), IfBusy::Refuse).await;
        assert!(matches!(refused, Err(Unavailable::Overloaded(_))), "{refused:?}");
        let load = aside.load();
        let seen = (load.running, load.waiting, load.refused);
        assert_eq!(seen, (AT_ONCE_PER_THREAD, WAITING_MAX, 1));
        end.notify_waiters();
        for one in waiting {
            assert_eq!(one.await.expect("it ran"), Ok(()));
        }
    }

    #[tokio::test]
    async fn one_that_may_be_refused_waits_only_so_long_for_its_turn() {
        let aside = aside(Duration::from_millis(1));
        let end = occupy(&aside).await;
        let refused = aside.run(nothing(), IfBusy::Refuse).await;
        assert!(matches!(refused, Err(Unavailable::Overloaded(_))), "{refused:?}");
        end.notify_waiters();
    }

    #[tokio::test]
    async fn a_snapshot_that_began_goes_on_beside_searches_that_hold_all_turns() {
        let aside = aside(LONG);
        let end = occupy(&aside).await;
        let piece = aside.run(nothing(), IfBusy::Wait);
        assert_eq!(timeout(LONG, piece).await.expect("it has turns of its own"), Ok(()));
        end.notify_waiters();
    }

    #[tokio::test]
    async fn a_search_goes_on_beside_any_number_of_snapshots() {
        let aside = aside(LONG);
        let end = Arc::new(Notify::new());
        for _ in 0..PIECES_AT_ONCE_PER_THREAD * 2 {
            let (aside, end) = (aside.clone(), end.clone());
            let piece = Box::pin(async move { end.notified().await });
            tokio::spawn(async move { aside.run(piece, IfBusy::Wait).await });
        }
        let all_taken = async {
            while aside.turns_of_pieces.available_permits() > 0 {
                yield_now().await;
            }
        };
        timeout(LONG, all_taken).await.expect("each takes a turn");
        let search = aside.run(nothing(), IfBusy::Refuse);
        assert_eq!(timeout(LONG, search).await.expect("it has turns of its own"), Ok(()));
        end.notify_waiters();
    }

    #[tokio::test]
    async fn a_work_ends_when_nobody_waits_for_it_and_gives_its_turn_back() {
        struct Ended(Arc<AtomicBool>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let aside = aside(LONG);
        let ended = Arc::new(AtomicBool::new(false));
        let witness = Ended(ended.clone());
        let endless = Box::pin(async move {
            let _witness = witness;
            std::future::pending::<()>().await;
        });
        let client = tokio::spawn({
            let aside = aside.clone();
            async move { aside.run(endless, IfBusy::Refuse).await }
        });
        while aside.turns.available_permits() == AT_ONCE_PER_THREAD {
            yield_now().await;
        }
        client.abort();
        while !ended.load(Ordering::Relaxed) {
            yield_now().await;
        }
        assert_eq!(aside.turns.available_permits(), AT_ONCE_PER_THREAD);
    }

    #[tokio::test]
    async fn a_work_that_panics_takes_no_turn_with_it() {
        let aside = aside(LONG);
        let failed = aside.run(Box::pin(async { panic!("on purpose") }), IfBusy::Refuse).await;
        assert!(matches!(failed, Err(Unavailable::Unknown(_))), "{failed:?}");
        assert_eq!(aside.turns.available_permits(), AT_ONCE_PER_THREAD);
    }
}
