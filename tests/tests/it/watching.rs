//! Watches through the gateway: resumed after it restarted, and read too slowly.

use std::time::Duration;

use bytes::Bytes;
use lattice_proto::kv::v1 as kv;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_runtime::grpc::Channel;
use lattice_tests::cluster::{Cluster, Member, P2p, Process};
use lattice_tests::wait::{PATIENCE, eventually};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tonic::Status;

/// The last key that is written.
const END: &str = "end";
/// How long keys are where the log of changes is to be filled, and how much of them it keeps (`docs/http-api.md`).
const LONG: usize = 1_000;
const LOG_BYTES: usize = 16 << 20;
/// Changes in one write.
const BATCH: usize = 1_000;
/// What the gateway and the kernel may hold for a reader that stopped: both ends' socket buffers, and a few frames.
const HELD_BYTES_MAX: usize = 12 << 20;

/// A change as a reader was told it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    id: String,
    key: String,
}

impl Told {
    fn sequence(&self) -> u64 {
        let (_, sequence) = self.id.split_once('-').expect("<incarnation>-<sequence>");
        sequence.parse().expect("a number")
    }
}

/// A store and a gateway as processes of their own: one may restart without the other.
struct Node {
    cluster: Cluster,
    _store: Process,
    gateway: Process,
}

impl Node {
    async fn start() -> Self {
        let cluster = Cluster::new(&[P2p::Disabled]);
        let member = &cluster.members[0];
        let (store, gateway) = (member.start_service("state-store"), member.start_service("gateway"));
        let node = Self { _store: store, gateway, cluster };
        eventually("the store behind the gateway", async || node.member().client.get("none").await).await;
        node
    }

    fn member(&self) -> &Member {
        &self.cluster.members[0]
    }

    /// The store itself, which is there while the gateway is not.
    fn store(&self) -> KeyValueClient<Channel> {
        let [port, ..] = self.member().service_ports;
        KeyValueClient::new(Channel::connect(&format!("127.0.0.1:{port}").parse().expect("an address")))
    }

    fn gateway_address(&self) -> String {
        self.member().client.url.trim_start_matches("http://").to_owned()
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A watch over server-sent events; what came and is not told yet.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    /// Begins after `since`, as a browser's event source does, or now.
    async fn begin(url: &str, since: &str) -> Option<(Self, String)> {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request = client.get(format!("{url}/v1/watch"));
        if !since.is_empty() {
            request = request.header("last-event-id", since);
        }
        let answer = request.send().await.ok().filter(|answer| answer.status() == StatusCode::OK)?;
        let begun = answer.headers().get("lattice-watch-since")?.to_str().ok()?.to_owned();
        Some((Self { answer, text: String::new() }, begun))
    }

    /// The next change; `None` when the stream ended, however it did.
    async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let told = told(event);
                self.text = rest.to_owned();
                if told.is_some() {
                    return told;
                }
            }
            let more = self.answer.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&more).expect("text"));
        }
    }
}

/// What an event says; `None` for a comment.
fn told(event: &str) -> Option<Told> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data: serde_json::Value = serde_json::from_str(field("data:")?).expect("JSON");
    Some(Told {
        id: field("id:").expect("an id").to_owned(),
        key: data["key"].as_str().expect("a key").to_owned(),
    })
}

/// A watch over gRPC.
struct Messages(tonic::Streaming<kv::WatchResponse>);

impl Messages {
    async fn begin(address: &str, since: &str) -> Option<(Self, String)> {
        let channel = Channel::connect(&address.parse().expect("an address"));
        let request = kv::WatchRequest { prefix: Bytes::new(), since: since.to_owned() };
        let mut messages = KeyValueClient::new(channel).watch(request).await.ok()?.into_inner();
        let first = messages.message().await.ok()??;
        Some((Self(messages), first.id))
    }

    async fn next(&mut self) -> Option<Told> {
        loop {
            let kv::WatchResponse { id, entry } = self.0.message().await.ok()??;
            if let Some(entry) = entry {
                return Some(Told { id, key: String::from_utf8(entry.key.to_vec()).expect("UTF-8") });
            }
        }
    }
}

enum Watch {
    Events(Events),
    Messages(Messages),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Events,
    Messages,
}

impl Watch {
    async fn begin(how: How, address: &str, since: &str) -> Option<(Self, String)> {
        match how {
            How::Events => {
                let (events, begun) = Events::begin(&format!("http://{address}"), since).await?;
                Some((Self::Events(events), begun))
            }
            How::Messages => {
                let (messages, begun) = Messages::begin(address, since).await?;
                Some((Self::Messages(messages), begun))
            }
        }
    }

    async fn next(&mut self) -> Option<Told> {
        match self {
            Self::Events(events) => events.next().await,
            Self::Messages(messages) => messages.next().await,
        }
    }
}

/// Follows all changes up to [`END`], resuming after what it was told last; says how many it has, and returns them with
/// how often it had to resume.
async fn follow(how: How, address: String, has: watch::Sender<Option<usize>>) -> (Vec<Told>, usize) {
    let (mut all, mut resumed, mut since) = (Vec::<Told>::new(), 0, String::new());
    loop {
        let what = format!("a watch ({how:?}) since {since:?}");
        let (mut watch, begun) = eventually(&what, async || Watch::begin(how, &address, &since).await).await;
        assert!(since.is_empty() || begun == since, "{what} began at {begun}");
        since = begun;
        has.send_replace(Some(all.len()));
        while let Some(told) = in_time("the next change", watch.next()).await {
            since.clone_from(&told.id);
            all.push(told);
            has.send_replace(Some(all.len()));
            if all.last().is_some_and(|last| last.key == END) {
                return (all, resumed);
            }
        }
        resumed += 1;
    }
}

/// Writes numbered keys until it is told to stop; then the last one. How many there are.
async fn write(mut store: KeyValueClient<Channel>, stop: watch::Receiver<bool>) -> Result<u64, Status> {
    let mut written = 0;
    while !*stop.borrow() {
        store.put(put(&numbered(written))).await?;
        written += 1;
    }
    store.put(put(END)).await?;
    Ok(written)
}

fn numbered(number: u64) -> String {
    format!("{number:08}")
}

fn put(key: &str) -> kv::PutRequest {
    kv::PutRequest { key: key.to_owned().into(), value: "x".into(), ttl_ms: None, condition: None }
}

#[tokio::test]
async fn a_watch_resumed_after_the_gateway_restarted_misses_nothing_and_repeats_nothing() {
    LocalSet::new().run_until(restarts()).await;
}

async fn restarts() {
    let mut node = Node::start().await;
    let mut readers = Vec::new();
    for how in [How::Events, How::Messages] {
        let (has, mut seen) = watch::channel(None);
        let reader = spawn_local(follow(how, node.gateway_address(), has));
        in_time("the first answer", seen.wait_for(Option::is_some)).await.expect("a reader");
        readers.push((how, reader, seen));
    }
    let (stop, stopped) = watch::channel(false);
    let writer = spawn_local(write(node.store(), stopped));
    for crash in [true, false, true] {
        for (how, _, seen) in &mut readers {
            let now = seen.borrow_and_update().unwrap_or_default();
            let more = seen.wait_for(|has| has.is_some_and(|has| has >= now + 20));
            in_time(&format!("more changes ({how:?})"), more).await.expect("a reader");
        }
        match crash {
            true => node.gateway.kill(),
            false => assert!(node.gateway.terminate().await.success()),
        }
        node.gateway = node.member().start_service("gateway");
    }
    for (how, _, seen) in &mut readers {
        let now = seen.borrow_and_update().unwrap_or_default();
        let more = seen.wait_for(|has| has.is_some_and(|has| has >= now + 20));
        in_time(&format!("changes after the last restart ({how:?})"), more).await.expect("a reader");
    }
    stop.send_replace(true);
    let written = in_time("the last write", writer).await.expect("a writer").expect("acknowledged writes");
    let expected: Vec<String> = (0..written).map(numbered).chain([END.to_owned()]).collect();
    for (how, reader, _) in readers {
        let (told, resumed) = in_time("the end", reader).await.expect("a reader");
        assert_eq!(resumed, 3, "{how:?}");
        let keys: Vec<&str> = told.iter().map(|told| told.key.as_str()).collect();
        assert_eq!(keys, expected, "{how:?}");
        let sequences: Vec<u64> = told.iter().map(Told::sequence).collect();
        assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{how:?}: {sequences:?}");
    }
}

/// Sends the head of a watch and takes nothing of the answer but its head.
async fn stalled(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a smaller buffer");
    let mut stream = socket.connect(address.parse().expect("an address")).await.expect("a connection");
    stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(in_time("the head of the answer", stream.read_u8()).await.expect("a byte"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("chunked"), "{head}");
    stream
}

/// The key of a change, long enough that some thousands of them fill the log.
fn long(number: usize) -> String {
    format!("{number:0LONG$}")
}

async fn write_batch(store: &mut KeyValueClient<Channel>, first: usize) {
    let operation =
        |number: usize| kv::Operation { operation: Some(kv::operation::Operation::Put(put(&long(number)))) };
    let request = kv::BatchRequest { operations: (first..first + BATCH).map(operation).collect() };
    in_time("a write", store.batch(request)).await.expect("an acknowledged write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_dropped_when_the_log_has_gone_on_without_it() {
    let node = Node::start().await;
    let address = node.gateway_address();
    let mut dropped = stalled(&address).await;
    let (mut late, begun) =
        eventually("a watch", async || Events::begin(&node.member().client.url, "").await).await;
    let mut gateway = KeyValueClient::new(Channel::connect(&address.parse().expect("an address")));

    // Within what the log keeps, who reads late is told all.
    let within = LOG_BYTES / (LONG + 64) / BATCH * BATCH / 2;
    for first in (0..within).step_by(BATCH) {
        write_batch(&mut gateway, first).await;
    }
    let mut last = begun;
    for number in 0..within {
        let told = in_time("the next change", late.next()).await.expect("a change");
        assert_eq!(told.key, long(number));
        last = told.id;
    }
    drop(late);

    // Beyond it, and beyond what is held on the way, who has not read is dropped. Writes are taken all the while.
    let written = (LOG_BYTES + HELD_BYTES_MAX).div_ceil(LONG).next_multiple_of(BATCH);
    for first in (within..written).step_by(BATCH) {
        write_batch(&mut gateway, first).await;
    }
    let mut rest = Vec::new();
    in_time("the end of the stream", dropped.read_to_end(&mut rest)).await.expect("an answer");
    let text = String::from_utf8_lossy(&rest);
    assert!(text.ends_with("0\r\n\r\n"), "a proper end: the gateway is well");
    let told = text.matches("data:").count();
    assert!(0 < told && told <= HELD_BYTES_MAX / LONG, "it was told {told} of {written} changes");

    // Whoever asks again after what it was told last learns where to begin.
    let url = format!("/v1/watch?since={last}");
    let answer = node.member().client.send(reqwest::Method::GET, &url).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::GONE);
    let problem: serde_json::Value = answer.json().await.expect("a problem");
    let again = Events::begin(&node.member().client.url, problem["since"].as_str().expect("an id")).await;
    assert!(again.is_some(), "{problem}");
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_taken_is_cut_after_the_documented_time() {
    let documented = include_str!("../../../docs/http-api.md");
    let row = documented.lines().find(|line| line.contains("takes nothing of its answer")).expect("a row");
    assert_eq!(lattice_runtime::http::STALL_MAX, Duration::from_secs(60));
    assert!(row.contains("60 s"), "{row}");
}
