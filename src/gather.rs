//! Gathers questions that arrive while an earlier round is under way and has them answered by one
//! round: under load the rounds get larger instead of more, and alone a question waits for nobody.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Questions that wait for a round; more are refused.
const WAITING_MAX: usize = 65_536;

/// Asks; cloning shares the queue.
#[derive(Debug)]
pub struct Gatherer<Q, A> {
    queue: mpsc::Sender<(Q, oneshot::Sender<A>)>,
}

impl<Q, A> Clone for Gatherer<Q, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// Why a question got no answer of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGathered {
    /// It was never taken up.
    Full,
    /// The node is stopping, or the round broke off; it may have been taken up.
    Stopped,
}

impl<Q: Send + 'static, A: Send + 'static> Gatherer<Q, A> {
    /// Starts the task that runs the rounds: at most `rounds` at a time, each of at most `size`
    /// questions. `run` answers all of them, in order.
    pub fn start<F, R>(rounds: usize, size: usize, run: F) -> Self
    where
        F: Fn(Vec<Q>) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<A>> + Send,
    {
        let (queue, mut waiting) = mpsc::channel::<(Q, oneshot::Sender<A>)>(WAITING_MAX);
        let permits = Arc::new(Semaphore::new(rounds));
        let run = Arc::new(run);
        tokio::spawn(async move {
            loop {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                let mut round = Vec::new();
                if waiting.recv_many(&mut round, size).await == 0 {
                    return;
                }
                let run = run.clone();
                tokio::spawn(async move {
                    let (questions, askers): (Vec<_>, Vec<_>) = round.into_iter().unzip();
                    let Ok(answers) = AssertUnwindSafe(run(questions)).catch_unwind().await else {
                        tracing::error!(requests = askers.len(), "a round of requests panicked");
                        return;
                    };
                    for (answer, asker) in answers.into_iter().zip(askers) {
                        // Who hung up needs no answer.
                        drop(asker.send(answer));
                    }
                    drop(permit);
                });
            }
        });
        Self { queue }
    }

    pub async fn ask(&self, question: Q) -> Result<A, NotGathered> {
        let (asker, answer) = oneshot::channel();
        self.queue.try_send((question, asker)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => NotGathered::Full,
            mpsc::error::TrySendError::Closed(_) => NotGathered::Stopped,
        })?;
        answer.await.map_err(|_| NotGathered::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_round_that_panics_ends_alone() {
        let gatherer = Gatherer::start(1, 16, |round: Vec<u32>| async move {
            assert!(!round.contains(&13), "a bug");
            round
        });
        assert_eq!(gatherer.ask(1).await, Ok(1));
        assert_eq!(gatherer.ask(13).await, Err(NotGathered::Stopped));
        assert_eq!(gatherer.ask(2).await, Ok(2));
    }

    #[tokio::test]
    async fn what_arrives_during_a_round_is_answered_by_the_next_one() {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let go = Arc::new(Semaphore::new(0));
        let rounds = Arc::new(AtomicUsize::new(0));
        let (gate, count) = (go.clone(), rounds.clone());
        let gatherer = Gatherer::start(1, 100, move |questions: Vec<u32>| {
            count.fetch_add(1, Ordering::Relaxed);
            begun.send(questions.len()).expect("the test listens");
            let gate = gate.clone();
            async move {
                gate.acquire().await.expect("the gate stays").forget();
                questions.into_iter().map(|q| q * 2).collect()
            }
        });
        let first = tokio::spawn({
            let gatherer = gatherer.clone();
            async move { gatherer.ask(1).await }
        });
        assert_eq!(begins.recv().await, Some(1));
        let others: Vec<_> = (2..12)
            .map(|q| {
                let gatherer = gatherer.clone();
                tokio::spawn(async move { gatherer.ask(q).await })
            })
            .collect();
        while gatherer.queue.capacity() > WAITING_MAX - 10 {
            tokio::task::yield_now().await;
        }
        go.add_permits(2);
        assert_eq!(begins.recv().await, Some(10));
        assert_eq!(first.await.expect("ran"), Ok(2));
        for (q, other) in (2..12).zip(others) {
            assert_eq!(other.await.expect("ran"), Ok(q * 2));
        }
        assert_eq!(rounds.load(Ordering::Relaxed), 2);
    }
}
