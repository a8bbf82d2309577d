//! One signal in: Ctrl-C or SIGTERM. A second one does not wait any longer.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Signals within so long are one: `timeout` sends one to the process and one to its group, and a key
/// may bounce.
const SAME_WITHIN: Duration = Duration::from_secs(1);

/// Is cancelled when the process is asked to stop.
pub fn on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut signals = Signals::caught()?;
    let asked = stop.clone();
    tokio::spawn(async move {
        loop {
            signals.next().await;
            if asked.is_cancelled() {
                std::process::exit(130);
            }
            asked.cancel();
        }
    });
    Ok(stop)
}

/// What a process that has something to clear away is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Is cancelled when it is asked to stop.
    pub stop: CancellationToken,
    /// Is cancelled when it is asked once more, over a second later: whatever takes long is to be left
    /// out, but nothing behind without a word.
    pub hurry: CancellationToken,
}

/// For who clears away at the end, which no signal that can be caught may cut off.
///
/// # Errors
/// If the signals cannot be caught.
pub fn on_signals() -> io::Result<Asked> {
    let asked = Asked::default();
    let mut signals = Signals::caught()?;
    let told = asked.clone();
    tokio::spawn(async move {
        signals.next().await;
        let first = Instant::now();
        told.stop.cancel();
        loop {
            signals.next().await;
            if first.elapsed() >= SAME_WITHIN {
                told.hurry.cancel();
            }
        }
    });
    Ok(asked)
}

/// Those that ask a process to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not end this process.
    fn caught() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
