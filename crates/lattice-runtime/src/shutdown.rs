//! Ends the process in order when the system, or a person, asks for it.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal as listen};
use tokio_util::sync::CancellationToken;

/// As the command line's "refused or failed".
const EXIT_AT_ONCE: i32 = 3;

/// A token that is cancelled by the first SIGINT or SIGTERM. A second signal ends the process at once. Call
/// it once, inside the runtime.
///
/// The task that listens belongs to no group: it must outlive them all, or a stop that hangs could not be
/// cut short.
pub fn signal() -> io::Result<CancellationToken> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::info!(signal = name, "stopping");
        first.cancel();
        let name = next(&mut interrupt, &mut terminate).await;
        tracing::warn!(signal = name, "second signal: exiting at once");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(token)
}

/// Ends with the first SIGINT, SIGTERM or SIGHUP, which end the process by themselves no more from here on: for a command
/// that has something to put back before. Call it inside the runtime.
pub fn requested() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = next(&mut interrupt, &mut terminate) => {}
            _ = hang_up.recv() => {}
        }
    })
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(30);

    fn kill(signal: &str) {
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    // One test: the process that runs them all takes a second signal for its end.
    #[tokio::test]
    async fn signals_are_told_and_the_first_cancels_the_token() {
        for signal in ["-INT", "-TERM", "-HUP"] {
            let stop = super::requested().unwrap();
            kill(signal);
            tokio::time::timeout(SOON, stop).await.unwrap();
        }
        let token = super::signal().unwrap();
        assert!(!token.is_cancelled());
        kill("-TERM");
        tokio::time::timeout(SOON, token.cancelled()).await.unwrap();
    }
}
