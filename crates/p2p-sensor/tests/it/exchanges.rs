//! Requests to peers, and theirs to us.

use std::time::Duration;

use lattice_core::signed::Signed;
use lattice_proto::sensor::v1::{ExchangeRequest, ServeRequest, ServeResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{DEADLINE, Home, Sensor, id, pair};

fn signed(body: impl Into<bytes::Bytes>) -> Signed {
    Signed { body: body.into(), signature: [7; 64] }
}

async fn ask(from: &Sensor, to: u8, body: impl Into<bytes::Bytes>) -> Result<bytes::Bytes, Status> {
    let request = ExchangeRequest { node: id(to).0.to_vec().into(), request: Some((&signed(body)).into()) };
    let asked = from.client.clone();
    let answer = tokio::time::timeout(DEADLINE, async move { asked.clone().exchange(request).await });
    Ok(answer.await.expect("an answer in time")?.into_inner().response.unwrap().body)
}

/// One caller of `Serve`.
struct Answerer {
    answers: mpsc::Sender<ServeRequest>,
    requests: Streaming<ServeResponse>,
}

impl Answerer {
    async fn new(sensor: &Sensor) -> Self {
        let (answers, stream) = mpsc::channel(64);
        answers.send(ServeRequest::default()).await.unwrap();
        let requests = sensor.client.clone().serve(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { answers, requests }
    }

    async fn next(&mut self) -> ServeResponse {
        tokio::time::timeout(DEADLINE, self.requests.message()).await.expect("a request").unwrap().unwrap()
    }

    async fn answer(&self, id: u64, body: impl Into<bytes::Bytes>) {
        let response = Some((&signed(body)).into());
        self.answers.send(ServeRequest { id, response }).await.unwrap();
    }
}

async fn connected_pair() -> (Sensor, Sensor) {
    let (first, second) = pair().await;
    first.until("connected", |state| state.peers.len() == 1).await;
    second.until("connected", |state| state.peers.len() == 1).await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_by_whoever_serves_at_the_peer() {
    let (first, second) = connected_pair().await;
    let mut answerer = Answerer::new(&second).await;
    let asking = async {
        // The largest envelope there may be, both ways.
        let large = vec![5; lattice_core::exchange::ENVELOPE_BYTES_MAX];
        assert_eq!(ask(&first, 2, large.clone()).await.unwrap(), large);
        assert_eq!(ask(&first, 2, "small").await.unwrap(), "small");
    };
    let answering = async {
        for _ in 0..2 {
            let request = answerer.next().await;
            assert_eq!(request.node, id(1).0.to_vec());
            answerer.answer(request.id, request.request.unwrap().body).await;
        }
    };
    tokio::join!(asking, answering);
    assert_eq!(first.metric("lattice_sensor_exchanges_total{direction=\"out\",outcome=\"answered\"}"), 2);
    assert_eq!(second.metric("lattice_sensor_exchanges_total{direction=\"in\",outcome=\"answered\"}"), 2);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_anybody_who_serves_the_asker_is_told_at_once() {
    let (first, second) = connected_pair().await;
    let refused = ask(&first, 2, "anybody?").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "nobody answers at the peer"));

    // One that goes without answering leaves nobody waiting.
    let mut answerer = Answerer::new(&second).await;
    let (asked, ()) = tokio::join!(ask(&first, 2, "one"), async {
        answerer.next().await;
        drop(answerer);
    });
    assert_eq!(asked.unwrap_err().message(), "nobody answers at the peer");

    // One that says that it has no answer.
    let mut answerer = Answerer::new(&second).await;
    let (asked, ()) = tokio::join!(ask(&first, 2, "two"), async {
        let id = answerer.next().await.id;
        answerer.answers.send(ServeRequest { id, response: None }).await.unwrap();
    });
    assert_eq!(asked.unwrap_err().message(), "nobody answers at the peer");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_connected_is_unavailable() {
    let sensor = Home::new(1, &[1, 2]).start().await;
    let refused = ask(&sensor, 2, "anybody?").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the peer is not connected"));
    let refused = ask(&sensor, 2, "").await.unwrap_err();
    assert_eq!(refused.message(), "request.body: has 0 bytes: must have 1 to 4194304");
    sensor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_deadline_is_kept_and_a_peer_that_hangs_uses_up_only_its_share() {
    let (first, second) = connected_pair().await;
    let _hangs = Answerer::new(&second).await;
    let give_up = tokio::time::Instant::now() + DEADLINE;
    loop {
        let mut request = tonic::Request::new(ExchangeRequest {
            node: id(2).0.to_vec().into(),
            request: Some((&signed("hang")).into()),
        });
        request.set_timeout(Duration::from_millis(30));
        let code = first.client.clone().exchange(request).await.unwrap_err().code();
        if code == Code::ResourceExhausted {
            break;
        }
        assert_eq!(code, Code::DeadlineExceeded);
        assert!(tokio::time::Instant::now() < give_up, "requests in flight are bounded");
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_caller_serves_and_the_older_one_takes_over_when_it_goes() {
    let (first, second) = connected_pair().await;
    let mut older = Answerer::new(&second).await;
    let mut newer = Answerer::new(&second).await;
    let (answer, ()) = tokio::join!(ask(&first, 2, "who?"), async {
        let id = newer.next().await.id;
        newer.answer(id, "the newer").await;
    });
    assert_eq!(answer.unwrap(), "the newer");
    drop(newer);
    // The end of a stream is noticed a moment later; until then a request may still go there and fail.
    let answering = tokio::spawn(async move {
        let id = older.next().await.id;
        older.answer(id, "the older").await;
        older
    });
    let answer = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Ok(answer) = ask(&first, 2, "who now?").await {
                return answer;
            }
        }
    });
    assert_eq!(answer.await.unwrap(), "the older");
    drop(answering.await.unwrap());
    first.stop().await;
    second.stop().await;
}
