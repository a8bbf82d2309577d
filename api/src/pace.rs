//! Long computations in handlers: others run in between, and they have an end.

use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// How long a computation goes on before it lets others run.
const STEP: Duration = Duration::from_millis(5);

/// How long one may take altogether unless it says.
const ALTOGETHER: Duration = Duration::from_secs(5);

/// It took more than it may take altogether.
pub(crate) struct TookTooLong;

/// The time that a computation takes. One that waits for others is not charged for them: only its
/// own steps count.
pub(crate) struct Pace {
    step: Instant,
    taken: Duration,
    altogether: Duration,
}

impl Pace {
    pub fn new() -> Self {
        Self::within(ALTOGETHER)
    }

    /// May take so long altogether.
    pub fn within(altogether: Duration) -> Self {
        Self { step: Instant::now(), taken: Duration::ZERO, altogether }
    }

    /// To be called between small pieces of work.
    pub async fn keep(&mut self) -> Result<(), TookTooLong> {
        let step = self.step.elapsed();
        if self.taken + step > self.altogether {
            return Err(TookTooLong);
        }
        if step < STEP {
            return Ok(());
        }
        self.taken += step;
        yield_now().await;
        self.step = Instant::now();
        Ok(())
    }
}
