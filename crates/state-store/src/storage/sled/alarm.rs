//! Wakes those who wait for sled after its disk has failed.
//!
//! sled writes on threads of its own. When such a write fails, sled notes the error for all who come later, but on
//! one of its two paths (a reservation that is left last, as a batch's is) it forgets to wake those who wait
//! already: a commit would wait for ever, and so would whoever reads a page that was not written yet. Asking sled
//! to write once more finds the error and wakes everybody.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often sled is looked at: how much longer a commit takes to fail than it would have to.
const PERIOD: Duration = Duration::from_millis(250);

/// The thread that looks. Ends when dropped.
pub(super) struct Alarm {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Alarm {
    pub(super) fn start(config: sled::Config, db: sled::Db) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let watch = move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if config.global_error().is_err() {
                    // Not `flush`, which would wait for a batch that is being applied. The error is known.
                    let _ = db.context.pagecache.log.make_stable(i64::MAX);
                }
            }
        };
        let thread = std::thread::Builder::new().name("store-alarm".into()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, and lets go of the database.
            let _ = thread.join();
        }
    }
}
