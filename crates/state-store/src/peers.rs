//! Answers peers' signed requests. Whatever is wrong with one becomes a signed refusal.
//!
//! Both entrances, libp2p and HTTP, lead here, so that a request replayed from the one to the other is noticed.
//! Every answer to a trusted sender carries a fresh challenge for its next request, once its signature was found
//! good: a forger of requests would otherwise drive out the challenges that its victim is about to use.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use lattice_core::budget::Budget;
use lattice_core::exchange::{Answer, Ask, Reason, Refusal, Request, Response};
use lattice_core::model::NodeId;
use lattice_core::signed::Signed;
use lattice_proto::codec::{Header, Refused, RequestChecks, open_request, sign_response};
use lattice_proto::store::v1::Asked;

use crate::challenges::{Challenge, Challenges};
use crate::engine::{Now, Question, Reader};

/// Answers peers for one store.
pub struct Peers {
    reader: Reader,
    trusted: RwLock<BTreeSet<NodeId>>,
    challenges: Mutex<Challenges>,
    limit: Option<Limit>,
}

/// What serving peers may cost.
#[derive(Debug)]
pub struct Limit {
    budget: Mutex<Budget>,
    delay_max: Duration,
}

impl Limit {
    /// At most `bytes_per_s` in the long run. An answer is delayed until what was served before it is paid off; where
    /// that takes longer than `delay_max`, walks and fetches are refused as busy.
    pub fn new(bytes_per_s: NonZeroU64, delay_max: Duration) -> Self {
        Self { budget: Mutex::new(Budget::new(bytes_per_s)), delay_max }
    }

    /// A refusal of what is asked, if too much was served already.
    fn refuse(&self, ask: &Ask, now: Now) -> Option<Refusal> {
        match ask {
            // They cost next to nothing, and tell that we are there.
            Ask::Hello | Ask::Bye => None,
            Ask::Walk { .. } | Ask::Fetch { .. } => {
                let debt = self.budget().debt(now.monotonic);
                let detail = || {
                    format!(
                        "serving peers is limited (store.serve_bytes_per_s): ask in {} ms",
                        debt.as_millis()
                    )
                };
                (debt > self.delay_max).then(|| Refusal { reason: Reason::Busy, detail: detail() })
            }
        }
    }

    /// Counts an answer; how long to keep it back.
    fn spend(&self, bytes: usize, now: Now) -> Duration {
        let mut budget = self.budget();
        let debt = budget.debt(now.monotonic);
        budget.spend(now.monotonic, bytes as u64);
        debt.min(self.delay_max)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes for one answer.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// The answer's nonce.
    pub nonce: [u8; 16],
    /// The challenge issued with it.
    pub challenge: Challenge,
}

/// A request that was looked at, and what was found.
#[derive(Debug)]
pub(crate) struct Opened {
    signed: Signed,
    content: Result<(Header, Request), Refused>,
}

impl Opened {
    /// Whether to answer it takes more than a few reads.
    pub(crate) fn is_costly(&self) -> bool {
        let ask = self.content.as_ref().map(|(_, request)| &request.ask);
        matches!(ask, Ok(Ask::Walk { .. } | Ask::Fetch { .. }))
    }

    /// The same, to be refused.
    pub(crate) fn refused(self, Refusal { reason, detail }: Refusal) -> Self {
        let refused = |(header, _)| Refused { reason, detail, header: Some(Box::new(header)) };
        Self { content: self.content.and_then(|content| Err(refused(content))), ..self }
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Exchanged {
    /// The signed answer; `None` when not even the request's header could be read.
    pub response: Option<Signed>,
    /// How long to keep it back, so that serving costs no more than it may.
    pub delay: Duration,
    /// Why it was refused, if it was.
    pub refused: Option<Refusal>,
    /// What an accepted request tells the coordinator.
    pub asked: Option<Asked>,
}

impl Peers {
    /// Answers with what `reader` reads, to members alone.
    pub fn new(reader: Reader, trusted: BTreeSet<NodeId>) -> Self {
        Self { reader, trusted: RwLock::new(trusted), challenges: Mutex::new(Challenges::new()), limit: None }
    }

    /// The same, within `limit`.
    #[must_use]
    pub fn limited(self, limit: Option<Limit>) -> Self {
        Self { limit, ..self }
    }

    /// Changes who is a member.
    pub fn set_trust(&self, trusted: BTreeSet<NodeId>) {
        self.challenges().retain(|sender| trusted.contains(sender));
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = trusted;
    }

    /// Whether a node is a member.
    pub fn trusts(&self, node: &NodeId) -> bool {
        self.trusted.read().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    /// Answers a request. Reads the disk.
    pub fn exchange(&self, signed: &Signed, now: Now, random: Random) -> Exchanged {
        self.answer(self.open(signed.clone(), now), now, random)
    }

    /// Checks who sent a request, and whether it is in order. That takes the same little time for each, and reads next
    /// to nothing.
    pub(crate) fn open(&self, signed: Signed, now: Now) -> Opened {
        let settings = self.reader.settings();
        let content = open_request(
            &signed,
            RequestChecks {
                cluster: &settings.cluster,
                node: self.reader.node(),
                trusted: &|sender| self.trusts(sender),
                incarnation_ok: &|sender, incarnation| self.reader.incarnation_ok(sender, incarnation),
                take_challenge: &mut |sender, challenge| {
                    self.challenges().take(sender, challenge, now.monotonic)
                },
            },
        );
        Opened { signed, content }
    }

    /// Answers what was opened. Reads the disk, if [`Opened::is_costly`] says so.
    pub(crate) fn answer(&self, opened: Opened, now: Now, random: Random) -> Exchanged {
        let Opened { signed, content } = opened;
        let mut authentic = true;
        let (header, answer, asked) = match content {
            Ok((header, request)) => {
                let answer = self.answer_member(&header, &request, now);
                let accepted = match &answer {
                    // It was in order; there was only nothing to give.
                    Answer::Refused(refusal) => refusal.reason == Reason::Empty,
                    Answer::Hello { .. } | Answer::Walk { .. } | Answer::Fetch { .. } | Answer::Bye => true,
                };
                let asked = accepted.then(|| asked(&header, &request)).flatten();
                (header, answer, asked)
            }
            Err(refused) => {
                let refusal = refused.refusal();
                authentic = is_authentic(refusal.reason);
                let Refused { header: Some(header), .. } = refused else {
                    return Exchanged {
                        response: None,
                        delay: Duration::ZERO,
                        refused: Some(refusal),
                        asked: None,
                    };
                };
                (*header, Answer::Refused(refusal), None)
            }
        };
        let refused = match &answer {
            Answer::Refused(refusal) => Some(refusal.clone()),
            Answer::Hello { .. } | Answer::Walk { .. } | Answer::Fetch { .. } | Answer::Bye => None,
        };
        let challenge = authentic.then_some(random.challenge);
        let response = self.respond(&signed, &header, answer, now, random.nonce, challenge);
        // What strangers cost is bounded elsewhere, and is not to keep members waiting.
        let limit = self.limit.as_ref().filter(|_| authentic);
        let delay = limit.map_or(Duration::ZERO, |limit| limit.spend(response.body.len(), now));
        Exchanged { response: Some(response), delay, refused, asked }
    }

    /// A signed refusal, without a look at the rest of the request: for when there is no time for one. It
    /// carries no challenge, and spends none.
    pub fn refuse(&self, signed: &Signed, refusal: Refusal, now: Now, random: Random) -> Option<Signed> {
        let (header, _) = lattice_proto::codec::read_header(signed).ok()?;
        Some(self.respond(signed, &header, Answer::Refused(refusal), now, random.nonce, None))
    }

    fn answer_member(&self, header: &Header, request: &Request, now: Now) -> Answer {
        let ours = self.reader.settings().epoch_length;
        if let Some(carried) = &request.announcement {
            let theirs = carried.announcement.epoch_length;
            if theirs != ours {
                let detail = format!("epoch_ms: this node has {}, got {}", ours.0, theirs.0);
                return Answer::Refused(Refusal { reason: Reason::Malformed, detail });
            }
        }
        if let Some(refusal) = self.limit.as_ref().and_then(|limit| limit.refuse(&request.ask, now)) {
            return Answer::Refused(refusal);
        }
        let question = Question {
            asker: header.sender,
            incarnation: header.incarnation,
            ask: &request.ask,
            time: now.wall,
        };
        self.reader.serve(question).unwrap_or_else(|error| {
            tracing::error!(peer = %header.sender, %error, "serve a peer");
            Answer::Refused(Refusal {
                reason: Reason::Unavailable,
                detail: "the store cannot read what was asked for".to_owned(),
            })
        })
    }

    /// Signs an answer; `challenge` is issued with it, if any.
    fn respond(
        &self,
        request: &Signed,
        header: &Header,
        answer: Answer,
        now: Now,
        nonce: [u8; 16],
        challenge: Option<Challenge>,
    ) -> Signed {
        let issue = |challenge| self.challenges().issue(header.sender, challenge, now.monotonic).to_vec();
        // Trust may have ended in the meantime.
        let next_challenge = challenge.filter(|_| self.trusts(&header.sender)).map(issue).unwrap_or_default();
        let response = Response { next_challenge, time: now.wall, answer };
        let header = Header {
            // Whoever was addressed by mistake, it is we who answer.
            sender: self.reader.node(),
            cluster: self.reader.settings().cluster.clone(),
            ..header.answer(request, self.reader.view().incarnation, nonce)
        };
        sign_response(&header, &response, self.reader.key())
    }

    fn challenges(&self) -> MutexGuard<'_, Challenges> {
        // Challenges are issued and spent by single changes, so that a panic elsewhere leaves them in order.
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal for this reason comes after the sender's signature was found good.
fn is_authentic(reason: Reason) -> bool {
    match reason {
        Reason::Untrusted | Reason::Cluster | Reason::Receiver | Reason::Signature => false,
        Reason::Challenge
        | Reason::Incarnation
        | Reason::Malformed
        | Reason::Empty
        | Reason::Busy
        | Reason::Unavailable => true,
    }
}

/// What a request tells the coordinator, if anything.
fn asked(header: &Header, request: &Request) -> Option<Asked> {
    let ended = matches!(request.ask, Ask::Bye);
    if request.announcement.is_none() && !ended {
        return None;
    }
    Some(Asked {
        node: Bytes::copy_from_slice(header.sender.as_bytes()),
        announcement: request.announcement.as_ref().map(Into::into),
        pull: request.pull.map_or(0, |pull| pull.id),
        in_kind: request.pull.is_some_and(|pull| pull.in_kind),
        ended,
    })
}

#[cfg(test)]
mod tests {
    use lattice_core::time::{Monotonic, WallTime};

    use super::*;

    #[test]
    fn what_was_served_delays_the_next_answer_and_too_much_refuses_it() {
        let at = |millis| Now { wall: WallTime(0), monotonic: Monotonic(Duration::from_millis(millis)) };
        let limit = Limit::new(NonZeroU64::new(1_000).unwrap(), Duration::from_secs(2));
        assert_eq!(limit.spend(1_500, at(10_000)), Duration::ZERO, "the first is free to go");
        assert_eq!(limit.spend(1_000, at(10_500)), Duration::from_secs(1));
        assert_eq!(limit.spend(1_000, at(10_500)), Duration::from_secs(2));
        let walk = Ask::Walk { epoch: None, nodes: Vec::new() };
        let refused = limit.refuse(&walk, at(10_500)).unwrap();
        assert_eq!(refused.reason, Reason::Busy);
        assert_eq!(refused.detail, "serving peers is limited (store.serve_bytes_per_s): ask in 3000 ms");
        assert_eq!(limit.refuse(&Ask::Hello, at(10_500)), None);
        assert_eq!(limit.refuse(&walk, at(11_500)), None, "it waits, then");
    }
}
