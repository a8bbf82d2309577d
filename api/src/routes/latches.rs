//! What locks and elections have in common: a claim, the wait until it wins, and its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use roster_storage::command::{
    BreakLatch, ClaimLatch, Command, Outcome, Refusal, Reply, WithdrawClaim, Withdrawn,
};
use roster_storage::events::{Change, Event, Reason};
use roster_storage::latch::{Claim, Claimant, Latch};
use roster_storage::names::{LatchKey, Revision};
use roster_storage::version::Version;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep;

use crate::Api;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid, decided, decided_with_session};
use crate::extract::Params;
use crate::poll::{latch_changed, of_claim, of_latch};
use crate::registry::{Consistency, NotFollowed, Told, Unavailable};
use crate::wire::latch::{
    BrokenView, CheckView, ClaimView, Claiming, LatchChanged, Letting, claimant_if_named,
};

/// Why requests for a claim take no idempotency key.
pub(super) const REPEATABLE: &str =
    "is of no use here: the same owner that asks again has the same place, or the same token";

/// Between two tries to take a claim out of the queue whose client hung up.
const WITHDRAWAL_PAUSE: Duration = Duration::from_millis(100);
const WITHDRAWAL_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What became of a claim when its request's time was over.
pub(super) enum Claimed {
    /// It holds under this token; known since the revision.
    Won { token: Revision, at: Revision },
    /// It still waits.
    Waits { at: Revision },
}

/// What becomes of a claim that did not win in time, or whose request was given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It ends.
    Leaves,
    /// It keeps its place.
    Stays,
}

impl Api {
    /// Claims a latch and waits until the claim wins, ends, or the time is over. One that leaves the
    /// queue and did not win is refused as held.
    pub(super) async fn claim(
        self: &Arc<Self>,
        claiming: Claiming,
        afterwards: Afterwards,
    ) -> Result<Claimed, ApiError> {
        let Claiming { command, wait_ms } = claiming;
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        let (latch, by) = (command.latch.clone(), command.by.clone());
        let mut place =
            PlaceInQueue { api: self.clone(), latch, by, afterwards, stage: Stage::Known };
        match place.take(command).await? {
            Taken::Waits { asked } if wait_ms > 0 => place.wait(asked, deadline).await,
            Taken::Waits { asked } => Ok(place.known(Claimed::Waits { at: asked })),
            Taken::Holds { token, at } => Ok(Claimed::Won { token, at }),
            Taken::GivenUp { at } => Err(place.still_held(at).await),
        }
    }

    /// Lets go what is held under a token, or all that a claimant has of a latch.
    pub(super) async fn let_go(&self, latch: LatchKey, letting: Letting) -> Answered {
        let command = match letting {
            Letting::Held(release) => Command::ReleaseLatch(release),
            Letting::All(withdraw) => Command::WithdrawClaim(withdraw),
        };
        match decided(self.registry.propose(command).await?)? {
            (revision, Reply::LatchReleased | Reply::Withdrawn(Withdrawn::Gone)) => {
                Ok(changed(&latch, revision))
            }
            (revision, Reply::Withdrawn(Withdrawn::NotThere)) => {
                Err(ApiError::nothing_to_let_go(&latch).at(revision))
            }
            (_, other) => Err(ApiError::unexpected(&other)),
        }
    }

    /// Takes a latch from whoever holds it: `DELETE`, with `?token=` only from those who hold it so.
    pub(super) async fn break_latch(&self, latch: LatchKey, mut params: Params) -> Answered {
        let token = params.number("token")?.map(Revision);
        params.end()?;
        let command = Command::BreakLatch(BreakLatch { latch: latch.clone(), token });
        match decided(self.registry.propose(command).await?)? {
            (revision, Reply::LatchBroken(claims)) => {
                let broken = claims.iter().map(|claim| ClaimView::new(latch.kind, claim));
                let (name, broken) = (&latch.name, broken.collect());
                let view = BrokenView { name, broken, revision: revision.0 };
                Ok(Answer::json(&view).at(revision))
            }
            (_, other) => Err(ApiError::unexpected(&other)),
        }
    }

    /// Whether a token still holds: `?token=`, with `?session=` and `?owner=` one of those who share.
    pub(super) async fn check(&self, latch: &LatchKey, mut params: Params) -> Answered {
        let reading = params.reading()?;
        let token = params.number("token")?.map(Revision);
        let token = token.ok_or_else(|| Invalid::new("token", "is missing"))?;
        let (session, owner) = (params.text("session"), params.text("owner"));
        let by = claimant_if_named(session.map(Into::into), owner.map(Into::into))?;
        params.end()?;
        let version = self.read(reading).await?;
        let mut held =
            version.catalog.latch(latch).into_iter().flat_map(|latch| latch.held_under(token));
        let holds = held.any(|claim| by.as_ref().is_none_or(|by| *by == claim.by));
        let revision = version.revision();
        let view = CheckView { holds, revision: revision.0 };
        Ok(Answer::json(&view).at(revision).read(reading.consistency))
    }

    /// A version in which somebody claims the latch; a long poll waits for its next change first.
    pub(super) async fn latch_version(
        &self,
        latch: &LatchKey,
        mut params: Params,
    ) -> Result<(Arc<Version>, Arc<Latch>, Consistency), ApiError> {
        let (reading, poll) = (params.reading()?, params.poll()?);
        params.end()?;
        if let Some(poll) = poll {
            let known = |version: &Version, _| latch_changed(version, latch);
            self.await_change(poll, of_latch(latch), |_| true, known).await?;
        }
        let version = self.read(reading).await?;
        let known = version.catalog.latch(latch).cloned();
        let known = known.ok_or_else(|| Refusal::UnknownLatch { latch: latch.clone() })?;
        Ok((version, known, reading.consistency))
    }
}

/// The answer to a change of a latch.
pub(super) fn changed(latch: &LatchKey, revision: Revision) -> Answer {
    Answer::json(&LatchChanged { name: &latch.name, revision: revision.0 }).at(revision)
}

/// A claim on behalf of one request. Dropped before the request is answered, since the client hung
/// up, it ends if that is what becomes of it.
struct PlaceInQueue {
    api: Arc<Api>,
    latch: LatchKey,
    by: Claimant,
    afterwards: Afterwards,
    stage: Stage,
}

enum Stage {
    /// On its way through the log; what is decided there is not known.
    Proposed(JoinHandle<Result<Outcome, Unavailable>>),
    /// In the queue, asked for at this revision.
    Queued(Revision),
    /// Whoever asked knows what there is, or that it has to ask again; or this request has nothing to
    /// give back.
    Known,
}

impl Stage {
    /// After it was decided what became of a claim.
    fn of(outcome: &Outcome) -> Self {
        match &outcome.result {
            // Another request of the same claimant won it before this one, and may be at work.
            Ok(Reply::Claimed { token: Some(token) }) if *token < outcome.revision => Self::Known,
            Ok(_) => Self::Queued(outcome.revision),
            Err(_) => Self::Known,
        }
    }
}

/// What a request for a claim got at once.
enum Taken {
    /// A place in the queue, asked for at this revision.
    Waits {
        asked: Revision,
    },
    Holds {
        token: Revision,
        at: Revision,
    },
    /// The claimant waited before, and has done with that.
    GivenUp {
        at: Revision,
    },
}

impl PlaceInQueue {
    /// Takes the place.
    async fn take(&mut self, command: ClaimLatch) -> Result<Taken, ApiError> {
        let api = self.api.clone();
        // A task of its own, so that it is known afterwards what became of it, whoever hangs up.
        let proposing =
            tokio::spawn(async move { api.registry.propose(Command::ClaimLatch(command)).await });
        let outcome = self.proposed(proposing).await;
        let outcome = outcome.map_err(|_| ApiError::not_ready("this node stops").unknown())??;
        let stage = Stage::of(&outcome);
        match decided_with_session(outcome, &self.api.registry.newest().catalog)? {
            (asked, Reply::Claimed { token: None }) => {
                self.stage = stage;
                Ok(Taken::Waits { asked })
            }
            (at, Reply::Claimed { token: Some(token) }) => Ok(Taken::Holds { token, at }),
            (at, Reply::Withdrawn(_)) => Ok(Taken::GivenUp { at }),
            (_, other) => Err(ApiError::unexpected(&other)),
        }
    }

    /// Waits for what is decided, such that a request that is dropped meanwhile finds it.
    async fn proposed(
        &mut self,
        proposing: JoinHandle<Result<Outcome, Unavailable>>,
    ) -> Result<Result<Outcome, Unavailable>, JoinError> {
        self.stage = Stage::Proposed(proposing);
        let outcome = match &mut self.stage {
            Stage::Proposed(proposing) => proposing.await,
            Stage::Queued(_) | Stage::Known => unreachable!("it was set just now"),
        };
        self.stage = Stage::Known;
        outcome
    }

    async fn wait(&mut self, asked: Revision, deadline: Instant) -> Result<Claimed, ApiError> {
        let stays = self.afterwards == Afterwards::Stays;
        match self.until_it_ends(asked, deadline).await {
            Ok(Some(claimed)) => Ok(self.known(claimed)),
            Ok(None) if stays => Ok(self.known(Claimed::Waits { at: asked })),
            Ok(None) => match self.leave(asked).await? {
                Left::Won { token, at } => Ok(Claimed::Won { token, at }),
                Left::Gone { at } => Err(self.still_held(at).await),
            },
            Err(Interrupted::Ended(why)) => Err(self.known(why)),
            // It is a candidate all the same.
            Err(Interrupted::Unfollowed(why)) if stays => Err(self.known(why.unknown())),
            Err(Interrupted::Unfollowed(why)) => match self.leave(asked).await? {
                Left::Won { token, at } => Ok(Claimed::Won { token, at }),
                Left::Gone { .. } => Err(why),
            },
        }
    }

    /// From here on nothing is given back, whoever hangs up.
    fn known<T>(&mut self, answer: T) -> T {
        self.stage = Stage::Known;
        answer
    }

    /// `None` when the time is over.
    async fn until_it_ends(
        &self,
        asked: Revision,
        deadline: Instant,
    ) -> Result<Option<Claimed>, Interrupted> {
        let mut after = asked;
        loop {
            let left = || deadline.saturating_duration_since(Instant::now());
            let interest = of_claim(&self.latch, &self.by);
            let followed = self.api.registry.follow(interest, after, left()).await;
            let mut feed = match followed {
                Ok(feed) => feed,
                Err(NotFollowed::Ahead { .. }) => return Ok(None),
                Err(NotFollowed::Unavailable(why)) => {
                    return Err(Interrupted::Unfollowed(why.into()));
                }
                Err(NotFollowed::Compacted { .. }) => match self.look().await? {
                    Claimed::Waits { at } => {
                        after = at;
                        continue;
                    }
                    won @ Claimed::Won { .. } => return Ok(Some(won)),
                },
            };
            loop {
                match feed.next(left()).await {
                    Told::Changes(changes) => {
                        let ended = changes.iter().find_map(|change| self.ended_by(change));
                        if let Some(ended) = ended {
                            return ended.map(Some).map_err(Interrupted::Ended);
                        }
                    }
                    Told::UpTo(_) if left().is_zero() => return Ok(None),
                    Told::UpTo(_) => {}
                    Told::Lagging(upto) => {
                        after = upto;
                        break;
                    }
                    // What was not told may be that it won.
                    Told::Compacted { .. } => match self.look().await? {
                        Claimed::Waits { at } => {
                            after = at;
                            break;
                        }
                        won @ Claimed::Won { .. } => return Ok(Some(won)),
                    },
                    // It keeps its place, for whoever asks for it again on the next node.
                    Told::Stopping(_) => {
                        let why =
                            "this node stops; ask another one, the place in the queue is kept";
                        return Err(Interrupted::Ended(ApiError::not_ready(why).unknown()));
                    }
                }
            }
        }
    }

    /// Looks the claim up where its changes cannot be told.
    async fn look(&self) -> Result<Claimed, Interrupted> {
        let read = self.api.registry.read(Consistency::Linearizable, None).await;
        let version = read.map_err(|why| Interrupted::Unfollowed(ApiError::of_read(why)))?;
        let at = version.revision();
        match version.catalog.claim_of(&self.by, &self.latch).map(|claim| claim.token) {
            Some(Some(token)) => Ok(Claimed::Won { token, at }),
            Some(None) => Ok(Claimed::Waits { at }),
            None if version.catalog.session(self.by.session).is_none() => {
                Err(Interrupted::Ended(self.unknown_session().at(at)))
            }
            None => Err(Interrupted::Ended(ApiError::claim_given_up(&self.latch).at(at))),
        }
    }

    fn ended_by(&self, change: &Change) -> Option<Result<Claimed, ApiError>> {
        let at = change.at.revision;
        let ended = |event: &Event| match event {
            Event::ClaimPut { latch, claim } => {
                let token = claim.token.filter(|_| self.is_mine(latch, claim))?;
                Some(Ok(Claimed::Won { token, at }))
            }
            Event::ClaimEnded { latch, claim, reason } => {
                self.is_mine(latch, claim).then(|| Err(self.why_it_ended(reason).at(at)))
            }
            // A session's claims are told before its end; other things are of no interest.
            Event::SessionPut { .. }
            | Event::SessionEnded { .. }
            | Event::AppPut { .. }
            | Event::AppDeleted { .. }
            | Event::InstancePut { .. }
            | Event::InstanceDeleted { .. }
            | Event::ShardDeleted { .. }
            | Event::DocumentPut { .. }
            | Event::DocumentDeleted { .. }
            | Event::RingPut { .. }
            | Event::RingDeleted { .. }
            | Event::WorkPut { .. }
            | Event::WorkEnded { .. }
            | Event::AlarmPut { .. }
            | Event::AlarmEnded { .. } => None,
        };
        change.events.iter().find_map(ended)
    }

    fn why_it_ended(&self, reason: &Reason) -> ApiError {
        match reason {
            Reason::Expired { .. } | Reason::SessionClosed => self.unknown_session(),
            Reason::Deregistered
            | Reason::Replaced { .. }
            | Reason::Operator
            | Reason::OperatorBecause { .. }
            | Reason::Empty
            | Reason::Released
            | Reason::WorkerGone
            | Reason::LetGo
            | Reason::GaveUp
            | Reason::Recovered
            | Reason::Removed => ApiError::claim_given_up(&self.latch),
        }
    }

    fn is_mine(&self, latch: &LatchKey, claim: &Claim) -> bool {
        *latch == self.latch && claim.by == self.by
    }

    fn unknown_session(&self) -> ApiError {
        Refusal::UnknownSession(self.by.session).into()
    }

    /// Leaves the queue at the end of its wait, unless it has won meanwhile: then that is the answer.
    /// Where that fails it may be in the queue still, and is taken out of it behind the answer.
    async fn leave(&mut self, asked: Revision) -> Result<Left, ApiError> {
        let withdrawal = withdrawal(&self.latch, &self.by, asked, false);
        let left = self.api.registry.propose(withdrawal).await;
        let left = left.map_err(|why| ApiError::from(why).unknown())?;
        match decided(self.known(left))? {
            (at, Reply::Withdrawn(Withdrawn::Won { token })) => Ok(Left::Won { token, at }),
            (at, Reply::Withdrawn(Withdrawn::Gone | Withdrawn::NotThere)) => Ok(Left::Gone { at }),
            (at, Reply::Withdrawn(Withdrawn::Kept)) => {
                Err(ApiError::asked_again(&self.latch).at(at))
            }
            (_, other) => Err(ApiError::unexpected(&other)),
        }
    }

    /// Who holds it, as far as this node knows when it is where the claim ended.
    async fn still_held(&self, ended: Revision) -> ApiError {
        let version = self.api.registry.read(Consistency::Stale, Some(ended)).await;
        let version = version.unwrap_or_else(|_| self.api.registry.newest());
        let at = version.revision().max(ended);
        ApiError::from(version.catalog.latch_held(&self.latch)).at(at)
    }
}

/// What became of a claim that was to leave the queue.
enum Left {
    Won { token: Revision, at: Revision },
    Gone { at: Revision },
}

/// Why a claim is not waited for any longer.
enum Interrupted {
    /// It is decided, or for others to ask for.
    Ended(ApiError),
    /// This node cannot tell what becomes of it.
    Unfollowed(ApiError),
}

fn withdrawal(latch: &LatchKey, by: &Claimant, asked: Revision, even_won: bool) -> Command {
    let (latch, by) = (latch.clone(), by.clone());
    let (asked, request) = (Some(asked), None);
    Command::WithdrawClaim(WithdrawClaim { latch, by, asked, even_won, request })
}

/// Takes a claim out of the queue, or gives it back, however long that takes: whoever asked for it will
/// not. Harmless if its claimant has asked for it again since.
async fn withdraw(api: &Api, latch: &LatchKey, by: &Claimant, asked: Revision) {
    let mut pause = WITHDRAWAL_PAUSE;
    while api.registry.propose(withdrawal(latch, by, asked, true)).await.is_err() {
        sleep(pause).await;
        pause = (pause * 2).min(WITHDRAWAL_PAUSE_MAX);
    }
}

impl Drop for PlaceInQueue {
    /// The client hung up: the claim ends, also if it has won and nobody was told.
    fn drop(&mut self) {
        if self.afterwards == Afterwards::Stays {
            return;
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Known);
        if matches!(stage, Stage::Known) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let (api, latch, by) = (self.api.clone(), self.latch.clone(), self.by.clone());
        runtime.spawn(async move {
            let asked = match stage {
                Stage::Proposed(proposing) => {
                    let Ok(Ok(outcome)) = proposing.await else { return };
                    let Stage::Queued(asked) = Stage::of(&outcome) else { return };
                    asked
                }
                Stage::Queued(asked) => asked,
                Stage::Known => return,
            };
            withdraw(&api, &latch, &by, asked).await;
        });
    }
}
