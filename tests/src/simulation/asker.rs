//! The asking side of signed envelopes, as the coordinator's shell has it: what is asked, of whom, and the
//! challenges that peers gave us.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::coordinator::{Event, Route};
use lattice_core::exchange::{Answer, Ask, Reason, Request, Response};
use lattice_core::model::{Incarnation, NodeId};
use lattice_core::pull::{self, Failure, Traffic};
use lattice_core::signed::Signed;
use lattice_core::time::WallTime;
use lattice_proto::codec::{self, Header, ResponseChecks};

use super::message::QuestionId;
use super::network::Way;
use super::settings::CLUSTER;

/// Challenges kept for one peer.
const CHALLENGES_MAX: usize = 4;

/// What a question is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// A poll of a URL.
    Poll {
        /// Which.
        url: String,
    },
    /// A hello.
    Hello {
        /// In which incarnation we asked.
        own: Incarnation,
    },
    /// A question of a pull.
    Pull {
        /// Of which.
        pull: pull::Id,
        /// Its number.
        number: u64,
        /// Nobody waits for the answer.
        last: bool,
    },
}

/// A question that is under way.
#[derive(Clone, Debug)]
pub struct Question {
    /// What it is for.
    pub purpose: Purpose,
    /// Whom it is put to; nobody in particular when it is a poll.
    pub peer: Option<NodeId>,
    /// How the peer is reached.
    pub route: Route,
    request: Option<Request>,
    own: Incarnation,
    envelope: Option<Signed>,
    tries: u32,
    traffic: Traffic,
}

/// What became of a question.
pub enum Outcome {
    /// The machine hears these; none when nobody waits for it.
    Over(Vec<Event>),
    /// Refused for its challenge: it is to be sent once more, with the one that came.
    Again,
}

/// All questions of one coordinator.
#[derive(Debug, Default)]
pub struct Asker {
    questions: BTreeMap<QuestionId, Question>,
    challenges: BTreeMap<NodeId, VecDeque<Vec<u8>>>,
}

impl Asker {
    /// Notes a poll.
    pub fn poll(&mut self, id: QuestionId, url: String) {
        let question = Question {
            purpose: Purpose::Poll { url: url.clone() },
            peer: None,
            route: Route::Http { url },
            request: None,
            own: Incarnation([0; 16]),
            envelope: None,
            tries: 1,
            traffic: Traffic::default(),
        };
        self.questions.insert(id, question);
    }

    /// Notes a request to a peer; [`Self::envelope`] makes what is sent.
    pub fn ask(
        &mut self,
        id: QuestionId,
        purpose: Purpose,
        peer: NodeId,
        route: Route,
        own: Incarnation,
        request: Request,
    ) {
        let question = Question {
            purpose,
            peer: Some(peer),
            route,
            request: Some(request),
            own,
            envelope: None,
            tries: 0,
            traffic: Traffic::default(),
        };
        self.questions.insert(id, question);
    }

    /// Signs a request, with the newest challenge that its receiver gave us.
    pub fn envelope(&mut self, id: QuestionId, key: &SigningKey, nonce: [u8; 16]) -> Option<Signed> {
        let question = self.questions.get_mut(&id)?;
        let (peer, request) = (question.peer?, question.request.as_ref()?);
        let challenge = self.challenges.get_mut(&peer).and_then(VecDeque::pop_back).unwrap_or_default();
        let header = Header {
            cluster: CLUSTER.to_owned(),
            sender: NodeId(key.verifying_key().to_bytes()),
            incarnation: question.own,
            receiver: peer,
            challenge: Bytes::from(challenge),
            nonce,
            traceparent: String::new(),
            request_hash: None,
        };
        let envelope = codec::sign_request(&header, request, key);
        question.tries += 1;
        question.traffic.bytes_out += envelope.body.len() as u64;
        question.envelope = Some(envelope.clone());
        Some(envelope)
    }

    /// The question of an id, while it is under way.
    pub fn question(&self, id: QuestionId) -> Option<&Question> {
        self.questions.get(&id)
    }

    /// The questions to a peer that are under way over P2P, whose connection has ended.
    pub fn over_p2p(&self, peer: &NodeId) -> Vec<QuestionId> {
        let over = |question: &Question| question.route == Route::P2p && question.peer.as_ref() == Some(peer);
        self.questions.iter().filter(|(_, question)| over(question)).map(|(id, _)| *id).collect()
    }

    /// An answer came by the way asked.
    pub fn answered(
        &mut self,
        id: QuestionId,
        outcome: Result<Signed, String>,
        own: NodeId,
        wall: WallTime,
    ) -> Outcome {
        let Some(mut question) = self.questions.remove(&id) else { return Outcome::Over(Vec::new()) };
        let signed = match outcome {
            Ok(signed) => signed,
            Err(reason) => return Outcome::Over(Vec::from_iter(question.failed(Failure::Lost(reason)))),
        };
        let (Some(peer), Some(envelope)) = (question.peer, &question.envelope) else {
            return Outcome::Over(vec![question.polled(&signed, wall)]);
        };
        question.traffic.bytes_in += signed.body.len() as u64;
        let checks = ResponseChecks {
            request: envelope,
            cluster: CLUSTER,
            node: own,
            sender: peer,
            incarnation: None,
        };
        let (header, response) = match codec::open_response(&signed, &checks) {
            Ok(opened) => opened,
            Err(error) => {
                return Outcome::Over(Vec::from_iter(question.failed(Failure::Lost(error.to_string()))));
            }
        };
        let fresh = !response.next_challenge.is_empty();
        if fresh {
            let kept = self.challenges.entry(peer).or_default();
            if kept.len() == CHALLENGES_MAX {
                kept.pop_front();
            }
            kept.push_back(response.next_challenge.clone());
        }
        let unchallenged =
            matches!(&response.answer, Answer::Refused(refusal) if refusal.reason == Reason::Challenge);
        if unchallenged && question.tries == 1 && fresh {
            self.questions.insert(id, question);
            return Outcome::Again;
        }
        let disowned =
            matches!(&response.answer, Answer::Refused(refusal) if refusal.reason == Reason::Incarnation);
        let disowned = disowned.then_some(Event::Disowned { peer, incarnation: question.own });
        let replied = question.replied(peer, header.incarnation, response, wall);
        Outcome::Over(disowned.into_iter().chain(replied).collect())
    }

    /// No answer comes any more.
    pub fn gave_up(&mut self, id: QuestionId, failure: Failure) -> Option<Event> {
        self.questions.remove(&id)?.failed(failure)
    }
}

impl Question {
    /// The way of its route.
    pub fn way(&self) -> Way {
        match self.route {
            Route::P2p => Way::P2p,
            Route::Http { .. } => Way::Http,
        }
    }

    fn failed(self, failure: Failure) -> Option<Event> {
        let reason = match &failure {
            Failure::TimedOut => "no answer in time".to_owned(),
            Failure::Lost(reason) => reason.clone(),
        };
        match (self.purpose, self.peer) {
            (Purpose::Poll { url }, _) => Some(Event::PollFailed { url, reason }),
            (Purpose::Hello { .. }, Some(peer)) => {
                Some(Event::GreetFailed { peer, route: self.route, reason })
            }
            (Purpose::Pull { last: false, pull, number }, _) => {
                Some(Event::Pull { id: pull, event: pull::Event::Failed { number, failure } })
            }
            (Purpose::Hello { .. } | Purpose::Pull { .. }, _) => None,
        }
    }

    fn polled(self, signed: &Signed, wall: WallTime) -> Event {
        let url = match self.route {
            Route::Http { url } => url,
            Route::P2p => String::new(),
        };
        match codec::open_announcement(signed) {
            Ok(announcement) => Event::Polled { url, announcement, wall },
            Err(error) => Event::PollFailed { url, reason: error.to_string() },
        }
    }

    fn replied(
        self,
        peer: NodeId,
        incarnation: Incarnation,
        response: Response,
        wall: WallTime,
    ) -> Option<Event> {
        let route = self.route;
        match self.purpose {
            Purpose::Hello { own } => Some(match response.answer {
                Answer::Hello { heard_sequence, heard_epoch } => Event::Greeted {
                    peer,
                    route,
                    incarnation,
                    own_incarnation: own,
                    heard_sequence,
                    heard_epoch,
                    time: response.time,
                    wall,
                },
                Answer::Refused(refusal) => {
                    let reason = format!("refused ({:?}): {}", refusal.reason, refusal.detail);
                    Event::GreetFailed { peer, route, reason }
                }
                Answer::Walk { .. } | Answer::Fetch { .. } | Answer::Bye => {
                    let reason = "hello was answered with something else".to_owned();
                    Event::GreetFailed { peer, route, reason }
                }
            }),
            Purpose::Pull { pull, number, last: false } => {
                let traffic = self.traffic;
                let event = pull::Event::Reply { number, incarnation, response, traffic };
                Some(Event::Pull { id: pull, event })
            }
            Purpose::Pull { last: true, .. } | Purpose::Poll { .. } => None,
        }
    }
}

/// A hello.
pub fn hello() -> Request {
    Request { announcement: None, pull: None, ask: Ask::Hello }
}
