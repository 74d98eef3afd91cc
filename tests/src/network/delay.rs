//! Lets packets arrive later: a thread takes what a host's iptables queues, and lets it go on when its time has come.
//!
//! The kernel's own way, `tc netem`, is not in every kernel.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nfq::{Message, Queue};

use super::enter;

/// The number of the queue, on each host.
pub(super) const QUEUE: u16 = 0;

/// The most packets that wait; what comes on top is lost, as on a real line.
const WAITING_MAX: u32 = 100_000;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running delay; it ends when dropped, and what waits then is lost.
#[derive(Debug)]
pub(super) struct Delay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Delay {
    /// Delays what is queued on the host whose namespace this is.
    pub(super) fn start(namespace: File, by: Duration) -> Result<Self> {
        // A thread that enters a namespace stays there: this one does not.
        let opened = thread::spawn(move || open(&namespace)).join();
        let mut queue = opened.expect("opening a queue does not panic").context("open a queue of packets")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || run(&mut queue, by, &stopped);
        let thread = thread::Builder::new().name("delay".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic has said what it was.
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("delay packets: {error}");
        }
    }
}

fn open(namespace: &File) -> io::Result<Queue> {
    enter(namespace)?;
    let mut queue = Queue::open()?;
    queue.bind(QUEUE)?;
    queue.set_queue_max_len(QUEUE, WAITING_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

fn run(queue: &mut Queue, by: Duration, stop: &AtomicBool) -> io::Result<()> {
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        match queue.recv() {
            Ok(packet) => {
                waiting.push_back((Instant::now() + by, packet));
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Some((_, packet)) = waiting.pop_front_if(|(due, _)| *due <= Instant::now()) {
            queue.verdict(packet)?;
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
