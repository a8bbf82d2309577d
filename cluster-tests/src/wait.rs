//! Waiting for a condition, with a deadline and a message that says what did not come.

use std::fmt::Display;
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `probe` gives an `Ok`, which it returns; panics with the last `Err` after `limit`.
pub async fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(why) if begun.elapsed() >= limit => {
                panic!("waited {limit:?} in vain until {what}: {why}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Looks all through `span` and panics at the first `Err`. At least one look.
pub async fn while_it_holds<E: Display>(
    what: &str,
    span: Duration,
    mut probe: impl AsyncFnMut() -> Result<(), E>,
) {
    let begun = Instant::now();
    loop {
        if let Err(why) = probe().await {
            panic!("after {:?} it was no longer so that {what}: {why}", begun.elapsed());
        }
        if begun.elapsed() >= span {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}
