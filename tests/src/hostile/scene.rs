//! Where hostile peers appear: one honest node that pulls from them, in a process of its own, and another one from which
//! it heals all the while.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::exchange::{Answer, Ask, Reason, Request};
use lattice_core::model::{Incarnation, NodeId};
use lattice_proto::codec::{self, Header};
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::http::HttpPeer;
use super::offer::{CLUSTER, EPOCH_MS, NAME, PREFIX};
use super::p2p::P2pPeer;
use super::{Mouth, Path};
use crate::client::{Client, common_root};
use crate::cluster::{Cluster, Member, P2p, Process};
use crate::wait::{eventually, wall};

/// As many as fit into one bucket: the honest node's tree stays one, so that every answer finds the same questions.
const MEANWHILE_KEYS: u64 = 8;
const MEANWHILE_EVERY: Duration = Duration::from_millis(150);

/// An honest node that is lied to, and an honest one beside it.
pub struct Scene {
    cluster: Cluster,
    _nodes: Vec<Process>,
    path: Path,
    /// Where liars are found over HTTP.
    http: Option<HttpPeer>,
    meanwhile: JoinHandle<()>,
}

/// What became of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its outcome.
    pub outcome: String,
    /// Why.
    pub detail: String,
    /// Over which path.
    pub path: String,
    /// Entries that entered the store.
    pub merged: u64,
    /// A pull from the other node, started after it, had ended before it.
    pub overtaken: bool,
}

/// A hostile peer that the honest node knows.
pub struct Guest {
    /// Its public key.
    pub node: String,
    over_p2p: Option<P2pPeer>,
}

impl Scene {
    /// Starts both nodes. The honest one reaches liars by `path` alone, and trusts those of `keys`.
    ///
    /// # Panics
    /// When the nodes do not start.
    pub async fn start(path: Path, keys: &[SigningKey]) -> Self {
        Self::start_with(path, keys, &["coordinator.request_timeout=2s"]).await
    }

    /// The same, with settings of the honest node's own.
    ///
    /// # Panics
    /// When the nodes do not start.
    pub async fn start_with(path: Path, keys: &[SigningKey], sets: &[&str]) -> Self {
        let honest = match path {
            Path::P2p => P2p::Blocked,
            Path::Http => P2p::Disabled,
        };
        let cluster = Cluster::new(&[honest, P2p::Disabled]);
        let [first, second] = &cluster.members[..] else { panic!("two nodes") };
        let http = match path {
            Path::P2p => None,
            Path::Http => Some(HttpPeer::start().await),
        };
        let urls: Vec<&str> =
            http.iter().map(|http| http.url.as_str()).chain([second.client.url.as_str()]).collect();
        let trusted: Vec<String> = keys.iter().map(public).chain([second.public_key.clone()]).collect();
        let lists = [
            format!("node.trusted_keys={}", trusted.join(",")),
            format!("coordinator.http_peers={}", urls.join(",")),
        ];
        let sets: Vec<&str> = lists.iter().map(String::as_str).chain(sets.iter().copied()).collect();
        let nodes = vec![start(first, &sets), start(second, &[])];
        for member in &cluster.members {
            member.wait_ready().await;
        }
        let client = second.client.clone();
        let meanwhile = tokio::spawn(async move {
            for number in 0_u64.. {
                let key = format!("meanwhile/{}", number % MEANWHILE_KEYS);
                // A write that fails shows as a heal that does not come.
                let _ = client.put(&key, &number.to_string()).await;
                tokio::time::sleep(MEANWHILE_EVERY).await;
            }
        });
        eventually("the first heal", async || first.client.get("meanwhile/0").await?).await;
        Self { cluster, _nodes: nodes, path, http, meanwhile }
    }

    /// Asks the node that is lied to.
    pub fn honest(&self) -> &Client {
        &self.cluster.members[0].client
    }

    /// Where the honest node keeps the keys that it was told to trust, and no more to trust.
    pub fn trust_file(&self) -> PathBuf {
        self.cluster.members[0].folder.join("data/trust.json")
    }

    /// What the honest node says to a request of `key` over HTTP that has no challenge: a member is given one.
    ///
    /// # Panics
    /// When it does not answer with a refusal.
    pub async fn greet(&self, key: &SigningKey) -> Reason {
        let receiver: NodeId = self.cluster.members[0].public_key.parse().expect("a key");
        let header = Header {
            cluster: CLUSTER.to_owned(),
            sender: NodeId(key.verifying_key().to_bytes()),
            incarnation: Incarnation([1; 16]),
            receiver,
            challenge: Bytes::new(),
            nonce: [1; 16],
            traceparent: String::new(),
            request_hash: None,
        };
        let hello = Request { announcement: None, pull: None, ask: Ask::Hello };
        let signed = codec::sign_request(&header, &hello, key);
        let answer = self.honest().exchange(codec::encode_signed(&signed)).await.expect("an answer");
        let signed = codec::decode_signed(answer).expect("a signed answer");
        let (_, payload) = codec::read_header(&signed).expect("an envelope");
        match codec::parse_response(payload).expect("a response").answer {
            Answer::Refused(refusal) => refusal.reason,
            other => panic!("{other:?}"),
        }
    }

    /// Lets a liar appear.
    pub fn enter(&self, mouth: Mouth) -> Guest {
        let key = mouth.key().clone();
        let over_p2p = match &self.http {
            Some(http) => {
                http.enter(mouth);
                None
            }
            None => Some(P2pPeer::start(mouth, &key, &self.cluster.members[0].p2p_address)),
        };
        Guest { node: public(&key), over_p2p }
    }

    /// Lets a liar appear, until the honest node knows it.
    pub async fn meet(&self, mouth: Mouth) -> Guest {
        let guest = self.enter(mouth);
        self.known(&guest).await;
        guest
    }

    /// Waits until the honest node knows a liar, and believes what it announces.
    pub async fn known(&self, guest: &Guest) {
        eventually("the liar is known", async || {
            let peer = self.honest().peer(&guest.node).await?;
            let known = match self.path {
                Path::P2p => peer["state"] == "live",
                Path::Http => peer["http_url"].as_str().is_some_and(|url| !url.is_empty()),
            };
            (known && peer["name"] == NAME).then_some(())
        })
        .await;
    }

    /// How often a liar has answered wrongly.
    pub fn told(&self, guest: &Guest) -> u64 {
        match (&self.http, &guest.over_p2p) {
            (Some(http), _) => http.told(),
            (None, Some(peer)) => peer.told(),
            (None, None) => 0,
        }
    }

    /// Has the honest node pull from a liar, and meanwhile from the other one; what became of the first.
    ///
    /// # Panics
    /// When the pull from the other one does not heal, or the liar did not lie.
    pub async fn offer(&self, name: &str, mouth: Mouth) -> Seen {
        let guest = self.meet(mouth).await;
        let id = self.reconcile(&guest.node).await;
        let other = self.reconcile(&self.cluster.members[1].public_key).await;
        let (healed, overtaken) = eventually("the other one's heal", async || {
            let heals = self.honest().heals().await?;
            let overtaken = !heals.iter().any(|heal| heal["id"] == id.as_str());
            heals.into_iter().find(|heal| heal["id"] == other.as_str()).map(|heal| (heal, overtaken))
        })
        .await;
        assert_eq!(healed["outcome"], "Healed", "{name}: {healed}");
        let seen = Seen { overtaken, ..self.ended(name, &id).await };
        assert!(self.told(&guest) > 0, "{name} was never told: {seen:?}");
        if let Some(http) = &self.http {
            http.leave();
        }
        seen
    }

    /// Starts a pull now; its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn reconcile(&self, node: &str) -> String {
        let path = format!("/api/lattice/reconcile?peer={node}");
        let answer = self.honest().send(Method::POST, &path).await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Waits until a pull has ended.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&self, name: &str, id: &str) -> Seen {
        let heal = eventually(&format!("how {name} ended"), async || {
            self.honest().heals().await?.into_iter().find(|heal| heal["id"] == id)
        })
        .await;
        Seen {
            outcome: text(&heal["outcome"]),
            detail: text(&heal["detail"]),
            path: text(&heal["path"]),
            merged: heal["entries_merged"].as_u64().expect("a number"),
            overtaken: false,
        }
    }

    /// Checks that nothing is there but what the other node wrote, and that the two of them have one root.
    ///
    /// # Panics
    /// When there is anything else.
    pub async fn believed_nothing(&self) {
        self.meanwhile.abort();
        let [honest, other] = &self.cluster.members[..] else { panic!("two nodes") };
        let after = wall().millis() / u64::from(EPOCH_MS);
        eventually("equal roots", async || common_root(&[&honest.client, &other.client], after).await).await;
        let listed = honest.client.json("/v1/kv?limit=1000").await.expect("a list");
        let keys: Vec<String> =
            listed["entries"].as_array().expect("entries").iter().map(|entry| text(&entry["key"])).collect();
        assert!(!keys.is_empty() && keys.iter().all(|key| !key.starts_with(PREFIX)), "{keys:?}");
        assert_eq!(honest.client.metric("lattice_store_held").await, Some(0.0), "nor is anything kept aside");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.meanwhile.abort();
    }
}

impl Guest {
    /// How often the honest node has closed a connection to it.
    pub fn closed(&self) -> u64 {
        self.over_p2p.as_ref().map_or(0, P2pPeer::closed)
    }
}

/// The public half, in hex.
pub fn public(key: &SigningKey) -> String {
    hex::encode(key.verifying_key().to_bytes())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn start(member: &Member, sets: &[&str]) -> Process {
    let config = member.config.display().to_string();
    let mut args = vec!["node", "--config", &config];
    let cluster = format!("node.cluster={CLUSTER}");
    let epoch = format!("store.epoch_ms={EPOCH_MS}");
    let quick = [
        cluster.as_str(),
        &epoch,
        "node.max_clock_drift=2s",
        "store.settle_ms=300",
        "store.settle_max_ms=1000",
        "coordinator.poll_interval=300ms",
        "coordinator.peerless_timeout=1s",
    ];
    for set in quick.into_iter().chain(sets.iter().copied()) {
        args.extend(["--set", set]);
    }
    Process::start("lattice", &args, &member.folder)
}
