//! Where peers' requests wait for whoever answers them.
//!
//! Callers of `Serve` answer; the newest one is asked, and when it goes, the one before it. Each request that
//! waits has a deadline, and their number is bounded, in all and for each peer, so that neither a caller that
//! hangs nor a peer that asks without end holds up more than itself. A request that cannot be put is failed
//! at once, so that the peer can try its other path.
//!
//! Generic over what is answered (`Reply`), so that it can be tested without a network.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_core::time::Monotonic;
use lattice_proto::sensor::v1::ServeResponse;
use tokio::sync::mpsc;

/// Requests that wait for an answer.
pub(crate) const WAITING_MAX: usize = 64;
/// Those of one peer.
pub(crate) const WAITING_PER_PEER_MAX: usize = 16;
/// Callers; one more and the oldest goes.
pub(crate) const CALLERS_MAX: usize = 8;

/// One caller of `Serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallerId(pub(crate) u64);

/// Why a request was not put to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no caller.
    Nobody,
    /// Too many requests wait.
    Busy,
}

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk<Reply> {
    timeout: Duration,
    next: u64,
    /// Newest last.
    callers: Vec<(CallerId, mpsc::Sender<ServeResponse>)>,
    waiting: BTreeMap<u64, Waiting<Reply>>,
}

#[derive(Debug)]
struct Waiting<Reply> {
    caller: CallerId,
    node: NodeId,
    due: Monotonic,
    reply: Reply,
}

impl<Reply> Desk<Reply> {
    /// An empty desk, where a request waits this long.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, next: 1, callers: Vec::new(), waiting: BTreeMap::new() }
    }

    /// A caller that answers from now on. Returns what the caller that had to go for it leaves behind.
    pub(crate) fn open(&mut self, caller: CallerId, requests: mpsc::Sender<ServeResponse>) -> Vec<Reply> {
        self.callers.push((caller, requests));
        if self.callers.len() > CALLERS_MAX {
            return self.close(self.callers[0].0);
        }
        Vec::new()
    }

    /// A caller is gone. Returns what it leaves unanswered.
    pub(crate) fn close(&mut self, caller: CallerId) -> Vec<Reply> {
        self.callers.retain(|(other, _)| *other != caller);
        self.take(|waiting| waiting.caller == caller)
    }

    /// Puts a peer's request to the newest caller; gives `reply` back when it cannot.
    pub(crate) fn ask(
        &mut self,
        now: Monotonic,
        node: NodeId,
        request: &Signed,
        reply: Reply,
    ) -> Result<(), (Reply, Refused)> {
        let of_peer = self.waiting.values().filter(|waiting| waiting.node == node).count();
        if self.waiting.len() >= WAITING_MAX || of_peer >= WAITING_PER_PEER_MAX {
            return Err((reply, Refused::Busy));
        }
        let id = self.next;
        let message = ServeResponse {
            id,
            node: Bytes::copy_from_slice(node.as_bytes()),
            request: Some(request.into()),
        };
        for (caller, requests) in self.callers.iter().rev() {
            match requests.try_send(message.clone()) {
                Ok(()) => {
                    self.next += 1;
                    let due = now + self.timeout;
                    self.waiting.insert(id, Waiting { caller: *caller, node, due, reply });
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Full(_)) => return Err((reply, Refused::Busy)),
                // Gone without a word: the one before it is asked.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        Err((reply, Refused::Nobody))
    }

    /// A caller answers. `None` when nothing waits for that from it.
    pub(crate) fn answer(&mut self, caller: CallerId, id: u64) -> Option<Reply> {
        if self.waiting.get(&id)?.caller != caller {
            return None;
        }
        self.waiting.remove(&id).map(|waiting| waiting.reply)
    }

    /// What has waited too long.
    pub(crate) fn expire(&mut self, now: Monotonic) -> Vec<Reply> {
        self.take(|waiting| waiting.due <= now)
    }

    /// When the next one has waited too long.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    fn take(&mut self, which: impl Fn(&Waiting<Reply>) -> bool) -> Vec<Reply> {
        let taken = self.waiting.extract_if(.., |_, waiting| which(waiting));
        taken.map(|(_, waiting)| waiting.reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn desk() -> Desk<u32> {
        Desk::new(TIMEOUT)
    }

    fn request() -> Signed {
        Signed { body: Bytes::from_static(b"ask"), signature: [0; 64] }
    }

    fn caller(desk: &mut Desk<u32>, id: u64) -> mpsc::Receiver<ServeResponse> {
        let (requests, received) = mpsc::channel(WAITING_MAX);
        assert!(desk.open(CallerId(id), requests).is_empty());
        received
    }

    fn ask(desk: &mut Desk<u32>, peer: u8, reply: u32) -> Result<(), (u32, Refused)> {
        desk.ask(Monotonic::ZERO, NodeId([peer; 32]), &request(), reply)
    }

    #[test]
    fn without_a_caller_a_request_fails_at_once() {
        let mut desk = desk();
        assert_eq!(ask(&mut desk, 1, 5), Err((5, Refused::Nobody)));
        drop(caller(&mut desk, 1));
        assert_eq!(ask(&mut desk, 1, 6), Err((6, Refused::Nobody)));
    }

    #[test]
    fn the_newest_caller_is_asked_then_the_one_before_it() {
        let mut desk = desk();
        let mut old = caller(&mut desk, 1);
        let mut new = caller(&mut desk, 2);
        ask(&mut desk, 1, 5).unwrap();
        let asked = new.try_recv().unwrap();
        assert_eq!(desk.answer(CallerId(1), asked.id), None, "another caller's request");
        assert_eq!(desk.answer(CallerId(2), asked.id), Some(5));
        assert_eq!(desk.answer(CallerId(2), asked.id), None, "answered once");
        ask(&mut desk, 1, 6).unwrap();
        assert_eq!(desk.close(CallerId(2)), [6]);
        ask(&mut desk, 1, 7).unwrap();
        assert_eq!(old.try_recv().unwrap().node, vec![1; 32]);
    }

    #[test]
    fn what_waits_is_bounded_in_all_and_for_each_peer() {
        let mut desk = desk();
        let _requests = caller(&mut desk, 1);
        for n in 0..WAITING_PER_PEER_MAX {
            ask(&mut desk, 1, n as u32).unwrap();
        }
        assert_eq!(ask(&mut desk, 1, 99), Err((99, Refused::Busy)));
        let mut put = WAITING_PER_PEER_MAX;
        for peer in 2..20 {
            while ask(&mut desk, peer, 0).is_ok() {
                put += 1;
            }
        }
        assert_eq!(put, WAITING_MAX);
    }

    #[test]
    fn what_has_waited_too_long_is_given_up() {
        let mut desk = desk();
        let _requests = caller(&mut desk, 1);
        assert_eq!(desk.deadline(), None);
        ask(&mut desk, 1, 5).unwrap();
        let due = desk.deadline().unwrap();
        assert_eq!(due, Monotonic(TIMEOUT));
        assert!(desk.expire(Monotonic(TIMEOUT - Duration::from_millis(1))).is_empty());
        assert_eq!(desk.expire(due), [5]);
        assert_eq!(desk.deadline(), None);
    }

    #[test]
    fn callers_are_bounded() {
        let mut desk = desk();
        let mut first = caller(&mut desk, 0);
        ask(&mut desk, 1, 5).unwrap();
        let _others: Vec<_> = (1..CALLERS_MAX as u64).map(|id| caller(&mut desk, id)).collect();
        let (requests, _received) = mpsc::channel(1);
        assert_eq!(desk.open(CallerId(100), requests), [5]);
        first.try_recv().unwrap();
        assert!(matches!(first.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }
}
