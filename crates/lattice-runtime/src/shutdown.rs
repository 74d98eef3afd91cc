//! Ends the process in order when the system, or a person, asks for it.

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

    #[tokio::test]
    async fn the_first_signal_cancels_the_token() {
        let token = super::signal().unwrap();
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(30), token.cancelled()).await.unwrap();
    }
}
