//! The asking side of envelopes, against a responder that checks as a store does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use lattice_core::exchange::{Answer, Ask, Reason, Refusal, Request, Response};
use lattice_core::model::{Epoch, Incarnation, NodeId};
use lattice_core::signed::Signed;
use lattice_core::time::WallTime;
use lattice_proto::codec::{self, RequestChecks, ResponseError};
use lattice_runtime::{entropy, identity::NodeKey};
use sync_coordinator::envelopes::{AskError, Asker, Between};

const CLUSTER: &str = "test";
const OURS: Incarnation = Incarnation([1; 16]);
const THEIRS: Incarnation = Incarnation([2; 16]);

/// A peer's store, as far as challenges go.
struct Responder {
    key: NodeKey,
    issued: Mutex<BTreeSet<Vec<u8>>>,
    requests: Mutex<Vec<Signed>>,
    /// Issues challenges that it will not know.
    forgetful: bool,
}

impl Responder {
    fn new(seed: u8) -> Arc<Self> {
        Arc::new(Self {
            key: NodeKey::from_seed(&[seed; 32]),
            issued: Mutex::default(),
            requests: Mutex::default(),
            forgetful: false,
        })
    }

    fn node(&self) -> NodeId {
        NodeId(self.key.public())
    }

    fn answer(&self, request: &Signed) -> Signed {
        self.requests.lock().unwrap().push(request.clone());
        let opened = codec::open_request(
            request,
            RequestChecks {
                cluster: CLUSTER,
                node: self.node(),
                trusted: &|_| true,
                incarnation_ok: &|_, _| true,
                take_challenge: &mut |_, challenge| self.issued.lock().unwrap().remove(challenge),
            },
        );
        let (header, answer) = match opened {
            Ok((header, _)) => (header, Answer::Hello { heard_sequence: 5, heard_epoch: Epoch(6) }),
            Err(refused) => (*refused.header.clone().unwrap(), Answer::Refused(refused.refusal())),
        };
        let challenge = entropy::bytes::<16>().to_vec();
        if !self.forgetful {
            self.issued.lock().unwrap().insert(challenge.clone());
        }
        let response = Response { next_challenge: challenge, time: WallTime(1), answer };
        let header = header.answer(request, THEIRS, entropy::bytes());
        codec::sign_response(&header, &response, self.key.signing_key())
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn asker() -> Asker {
    Asker::new(Arc::new(NodeKey::from_seed(&[7; 32])), CLUSTER.into())
}

fn hello() -> Request {
    Request { announcement: None, pull: None, ask: Ask::Hello }
}

fn between(responder: &Responder) -> Between {
    Between { ours: OURS, peer: responder.node(), theirs: None }
}

#[tokio::test]
async fn the_first_request_is_refused_once_and_the_next_ones_are_not() {
    let (asker, responder) = (asker(), Responder::new(1));
    for asked in [2, 3, 4] {
        let answered =
            asker.ask(between(&responder), &hello(), async |sent| Ok(responder.answer(&sent))).await.unwrap();
        assert_eq!(answered.incarnation, THEIRS);
        assert_eq!(answered.response.answer, Answer::Hello { heard_sequence: 5, heard_epoch: Epoch(6) });
        assert_eq!(responder.asked(), asked);
        assert!(answered.bytes_in > 0 && answered.bytes_out > 0);
    }
}

#[tokio::test]
async fn challenges_that_were_forgotten_cost_one_refusal() {
    let (asker, responder) = (asker(), Responder::new(1));
    asker.ask(between(&responder), &hello(), async |sent| Ok(responder.answer(&sent))).await.unwrap();
    // As after a restart of its store.
    responder.issued.lock().unwrap().clear();
    let answered = asker.ask(between(&responder), &hello(), async |sent| Ok(responder.answer(&sent))).await;
    assert!(matches!(answered.unwrap().response.answer, Answer::Hello { .. }));
    assert_eq!(responder.asked(), 4);
}

#[tokio::test]
async fn a_peer_that_knows_none_of_its_challenges_is_asked_twice_and_no_more() {
    let responder = Responder { forgetful: true, ..Arc::into_inner(Responder::new(1)).unwrap() };
    let answered = asker().ask(between(&responder), &hello(), async |sent| Ok(responder.answer(&sent))).await;
    let Answer::Refused(Refusal { reason, .. }) = answered.unwrap().response.answer else {
        panic!("it was refused twice")
    };
    assert_eq!(reason, Reason::Challenge);
    assert_eq!(responder.asked(), 2);
}

#[tokio::test]
async fn what_the_peer_did_not_say_to_this_question_is_no_answer() {
    let (asker, responder, stranger) = (asker(), Responder::new(1), Responder::new(2));
    let ask = async |carry: &dyn Fn(Signed) -> Signed| {
        let error = asker.ask(between(&responder), &hello(), async |sent| Ok(carry(sent))).await.unwrap_err();
        match error {
            AskError::NotProved(error) => error,
            AskError::TimedOut(_) | AskError::Lost(_) => panic!("{error}"),
        }
    };

    let replayed: Mutex<Option<Signed>> = Mutex::default();
    let replay =
        |sent: Signed| replayed.lock().unwrap().get_or_insert_with(|| responder.answer(&sent)).clone();
    // The first answer is a refusal; the second try gets the same one.
    assert!(matches!(ask(&replay).await, ResponseError::Request));

    let forged = |sent: Signed| {
        let answer = responder.answer(&sent);
        Signed { signature: [7; 64], ..answer }
    };
    assert!(matches!(ask(&forged).await, ResponseError::Open(_)));

    let other = |sent: Signed| {
        let (header, _) = codec::read_header(&sent).unwrap();
        let header = codec::Header { receiver: stranger.node(), ..header }.answer(&sent, THEIRS, [0; 16]);
        let answer = Answer::Hello { heard_sequence: 0, heard_epoch: Epoch(0) };
        let response = Response { next_challenge: vec![], time: WallTime(1), answer };
        codec::sign_response(&header, &response, stranger.key.signing_key())
    };
    assert!(matches!(ask(&other).await, ResponseError::Sender { .. }));
}

#[tokio::test]
async fn another_incarnation_than_the_one_asked_for_is_told_apart() {
    let (asker, responder) = (asker(), Responder::new(1));
    let wanted = Between { theirs: Some(OURS), ..between(&responder) };
    let error = asker.ask(wanted, &hello(), async |sent| Ok(responder.answer(&sent))).await.unwrap_err();
    assert!(matches!(error, AskError::NotProved(ResponseError::Incarnation { .. })), "{error}");
}
