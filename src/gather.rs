//! Gathers questions that arrive while an earlier round is under way and has them answered by one
//! round: under load the rounds get larger instead of more.
//!
//! Whoever asks names a deadline and the question's weight in bytes. What waits is bounded by weight;
//! a question whose deadline passed, or whose asker hung up, before its round began is left out, so
//! nothing is done for clients that have long gone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Weight of all questions that wait or are being answered, in bytes; more are refused.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Every question weighs this at least, for what surrounds it.
const QUESTION_BYTES: usize = 256;

/// A round that carried so many questions is expected to be followed by another such one.
const BUSY: usize = 4;

/// How rounds are made.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// Rounds under way at once.
    pub at_once: usize,
    /// A round is full when its questions weigh this.
    pub bytes: usize,
    /// How long the first question waits for others if the round before carried several: their
    /// askers are about to ask again. Alone a question waits for nobody.
    pub pause: Duration,
    /// So many questions may wait or be under way; more are refused.
    pub waiting_max: usize,
}

/// Asks; cloning shares the queue.
#[derive(Debug)]
pub struct Gatherer<Q, A> {
    queue: mpsc::UnboundedSender<Waiting<Q, A>>,
    room: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl<Q, A> Clone for Gatherer<Q, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), room: self.room.clone(), places: self.places.clone() }
    }
}

#[derive(Debug)]
struct Waiting<Q, A> {
    question: Q,
    bytes: usize,
    deadline: Instant,
    asker: oneshot::Sender<Result<A, NotGathered>>,
    /// Given back when the question was answered.
    room: Room,
}

/// What a question takes until it was answered.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Why a question got no answer of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGathered {
    /// Too much waits; it was never taken up.
    Full,
    /// Its deadline passed before it was taken up.
    Late,
    /// The node is stopping; it may have been taken up.
    Stopped,
}

impl<Q: Send + 'static, A: Send + 'static> Gatherer<Q, A> {
    /// Starts the task that runs the rounds. `run` answers all questions of a round, in order, by the
    /// earliest of their deadlines.
    pub fn start<F, R>(rounds: Rounds, run: F) -> Self
    where
        F: Fn(Vec<Q>, Instant) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<A>> + Send,
    {
        let (queue, mut waiting) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(rounds.at_once));
        let run = Arc::new(run);
        tokio::spawn(async move {
            let mut busy = false;
            loop {
                let Ok(permit) = permits.clone().acquire_owned().await else { return };
                let Some(first) = waiting.recv().await else { return };
                if busy {
                    sleep(rounds.pause).await;
                }
                let round = fill(first, &mut waiting, rounds.bytes);
                busy = round.len() >= BUSY && !rounds.pause.is_zero();
                let run = run.clone();
                tokio::spawn(async move {
                    answer(round, &*run).await;
                    drop(permit);
                });
            }
        });
        let places = rounds.waiting_max.min(Semaphore::MAX_PERMITS);
        Self {
            queue,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Asks and waits for the answer. A question that was taken up is answered in time by `run`.
    pub async fn ask(
        &self,
        question: Q,
        bytes: usize,
        deadline: Instant,
    ) -> Result<A, NotGathered> {
        let bytes = bytes + QUESTION_BYTES;
        let weight = u32::try_from(bytes).map_err(|_| NotGathered::Full)?;
        let full = |_| NotGathered::Full;
        let place = self.places.clone().try_acquire_owned().map_err(full)?;
        let room = self.room.clone().try_acquire_many_owned(weight).map_err(full)?;
        let room = (place, room);
        let (asker, answer) = oneshot::channel();
        self.queue
            .send(Waiting { question, bytes, deadline, asker, room })
            .map_err(|_| NotGathered::Stopped)?;
        answer.await.map_err(|_| NotGathered::Stopped)?
    }
}

/// Takes what waits until the round is full.
fn fill<Q, A>(
    first: Waiting<Q, A>,
    waiting: &mut mpsc::UnboundedReceiver<Waiting<Q, A>>,
    bytes_max: usize,
) -> Vec<Waiting<Q, A>> {
    let mut bytes = first.bytes;
    let mut round = vec![first];
    while bytes < bytes_max
        && let Ok(next) = waiting.try_recv()
    {
        bytes += next.bytes;
        round.push(next);
    }
    round
}

async fn answer<Q, A, R>(round: Vec<Waiting<Q, A>>, run: &(impl Fn(Vec<Q>, Instant) -> R + Sync))
where
    R: Future<Output = Vec<A>> + Send,
{
    let now = Instant::now();
    let mut deadline = None::<Instant>;
    let (mut questions, mut askers) = (Vec::new(), Vec::new());
    for one in round {
        if one.deadline <= now {
            // Who hung up needs no answer, here and below.
            drop(one.asker.send(Err(NotGathered::Late)));
        } else if !one.asker.is_closed() {
            deadline = Some(deadline.map_or(one.deadline, |d| d.min(one.deadline)));
            questions.push(one.question);
            askers.push((one.asker, one.room));
        }
    }
    let Some(deadline) = deadline else { return };
    // The askers of a round that panics are told so by their closed channel; the next rounds go on.
    let Ok(answers) = AssertUnwindSafe(run(questions, deadline)).catch_unwind().await else {
        return tracing::error!(requests = askers.len(), "a round of requests panicked");
    };
    for (answer, (asker, room)) in answers.into_iter().zip(askers) {
        drop(asker.send(Ok(answer)));
        drop(room);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ONE_AT_ONCE: Rounds =
        Rounds { at_once: 1, bytes: 1 << 20, pause: Duration::ZERO, waiting_max: usize::MAX };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Doubles numbers, each round when the test lets it; tells the size of each round that begins.
    struct Doubling {
        gatherer: Gatherer<u32, u32>,
        begins: mpsc::UnboundedReceiver<usize>,
        go: Arc<Semaphore>,
        rounds: Arc<AtomicUsize>,
    }

    impl Doubling {
        fn start(rounds: Rounds) -> Self {
            let (begun, begins) = mpsc::unbounded_channel();
            let go = Arc::new(Semaphore::new(0));
            let count = Arc::new(AtomicUsize::new(0));
            let (gate, counted) = (go.clone(), count.clone());
            let gatherer = Gatherer::start(rounds, move |questions: Vec<u32>, _| {
                counted.fetch_add(1, Ordering::Relaxed);
                begun.send(questions.len()).expect("the test listens");
                let gate = gate.clone();
                async move {
                    gate.acquire().await.expect("the gate stays").forget();
                    questions.into_iter().map(|q| q * 2).collect()
                }
            });
            Self { gatherer, begins, go, rounds: count }
        }

        fn ask(
            &self,
            q: u32,
            deadline: Instant,
        ) -> tokio::task::JoinHandle<Result<u32, NotGathered>> {
            let gatherer = self.gatherer.clone();
            tokio::spawn(async move { gatherer.ask(q, 0, deadline).await })
        }

        async fn wait_for_waiting(&self, count: usize) {
            while self.gatherer.room.available_permits()
                > WAITING_BYTES_MAX - count * QUESTION_BYTES
            {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn what_arrives_during_a_round_is_answered_by_the_next_one() {
        let mut doubling = Doubling::start(ONE_AT_ONCE);
        let first = doubling.ask(1, soon());
        assert_eq!(doubling.begins.recv().await, Some(1));
        let others: Vec<_> = (2..12).map(|q| doubling.ask(q, soon())).collect();
        doubling.wait_for_waiting(11).await;
        doubling.go.add_permits(2);
        assert_eq!(doubling.begins.recv().await, Some(10));
        assert_eq!(first.await.expect("ran"), Ok(2));
        for (q, other) in (2..12).zip(others) {
            assert_eq!(other.await.expect("ran"), Ok(q * 2));
        }
        assert_eq!(doubling.rounds.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_question_whose_deadline_passed_while_it_waited_is_not_taken_up() {
        let mut doubling = Doubling::start(ONE_AT_ONCE);
        let first = doubling.ask(1, soon());
        assert_eq!(doubling.begins.recv().await, Some(1));
        let late = doubling.ask(2, Instant::now());
        let in_time = doubling.ask(3, soon());
        doubling.wait_for_waiting(3).await;
        doubling.go.add_permits(2);
        assert_eq!(doubling.begins.recv().await, Some(1));
        assert_eq!(first.await.expect("ran"), Ok(2));
        assert_eq!(late.await.expect("ran"), Err(NotGathered::Late));
        assert_eq!(in_time.await.expect("ran"), Ok(6));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_by_its_weight() {
        let mut doubling = Doubling::start(ONE_AT_ONCE);
        let first = doubling.ask(1, soon());
        assert_eq!(doubling.begins.recv().await, Some(1));
        let refused = doubling.gatherer.ask(2, WAITING_BYTES_MAX, soon()).await;
        assert_eq!(refused, Err(NotGathered::Full));
        doubling.go.add_permits(1);
        assert_eq!(first.await.expect("ran"), Ok(2));
    }

    #[tokio::test]
    async fn more_questions_than_may_wait_are_refused_at_once() {
        let mut doubling = Doubling::start(Rounds { waiting_max: 2, ..ONE_AT_ONCE });
        let first = doubling.ask(1, soon());
        assert_eq!(doubling.begins.recv().await, Some(1));
        let second = doubling.ask(2, soon());
        doubling.wait_for_waiting(2).await;
        let refused = doubling.gatherer.ask(3, 0, soon()).now_or_never();
        assert_eq!(refused, Some(Err(NotGathered::Full)));
        doubling.go.add_permits(3);
        assert_eq!(first.await.expect("ran"), Ok(2));
        assert_eq!(second.await.expect("ran"), Ok(4));
        assert_eq!(doubling.gatherer.ask(3, 0, soon()).await, Ok(6), "there is room again");
    }

    #[tokio::test]
    async fn a_round_that_panics_ends_alone() {
        let gatherer = Gatherer::start(ONE_AT_ONCE, |round: Vec<u32>, _| async move {
            assert!(!round.contains(&13), "a bug");
            round
        });
        assert_eq!(gatherer.ask(1, 0, soon()).await, Ok(1));
        assert_eq!(gatherer.ask(13, 0, soon()).await, Err(NotGathered::Stopped));
        assert_eq!(gatherer.ask(2, 0, soon()).await, Ok(2));
    }

    #[tokio::test]
    async fn a_round_is_full_at_its_weight() {
        let rounds = Rounds { bytes: 3 * QUESTION_BYTES, ..ONE_AT_ONCE };
        let mut doubling = Doubling::start(rounds);
        let first = doubling.ask(1, soon());
        assert_eq!(doubling.begins.recv().await, Some(1));
        let others: Vec<_> = (2..7).map(|q| doubling.ask(q, soon())).collect();
        doubling.wait_for_waiting(6).await;
        doubling.go.add_permits(3);
        assert_eq!(doubling.begins.recv().await, Some(3));
        assert_eq!(doubling.begins.recv().await, Some(2));
        assert_eq!(first.await.expect("ran"), Ok(2));
        for other in others {
            other.await.expect("ran").expect("is answered");
        }
    }
}
