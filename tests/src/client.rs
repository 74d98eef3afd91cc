//! Asks a node over its REST API.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// One node, by its base URL.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    pub url: String,
}

/// A run of equal roots, as `/api/lattice/state` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first epoch.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// The root, or none for an empty tree.
    pub root: Option<String>,
}

impl Client {
    /// A client of the node at `url`.
    ///
    /// # Panics
    /// When no HTTP client can be made on this machine.
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()
            .expect("a client without options that could be wrong");
        Self { http, url: url.to_owned() }
    }

    /// A client of the node at `url`, which serves TLS with a certificate that the PEM text `ca` vouches for.
    ///
    /// # Panics
    /// When `ca` is no certificate.
    pub fn with_ca(url: &str, ca: &str) -> Self {
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .tls_certs_only([ca])
            .build()
            .expect("a client with one authority");
        Self { http, url: url.to_owned() }
    }

    /// Sends a request without a body.
    pub async fn send(&self, method: Method, path: &str) -> reqwest::Result<Response> {
        self.http.request(method, format!("{}{path}", self.url)).send().await
    }

    /// The JSON behind `path`; `None` while the node does not answer with success.
    pub async fn json(&self, path: &str) -> Option<Value> {
        let answer = self.send(Method::GET, path).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.json().await.ok()
    }

    /// Whether all of the node is there.
    pub async fn ready(&self) -> Option<()> {
        let answer = self.send(Method::GET, "/readyz").await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    }

    /// Writes a value; the error is what the node said.
    ///
    /// # Errors
    /// When the write was not acknowledged.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), String> {
        let request = self.http.put(format!("{}/v1/kv/{key}", self.url)).body(value.to_owned());
        let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        if status == StatusCode::OK { Ok(()) } else { Err(format!("{status}: {:?}", answer.text().await)) }
    }

    /// The value of `key`: `Some(None)` when the node says that there is none, `None` when it does not say.
    pub async fn get(&self, key: &str) -> Option<Option<String>> {
        let answer = self.send(Method::GET, &format!("/v1/kv/{key}")).await.ok()?;
        match answer.status() {
            StatusCode::OK => Some(Some(answer.text().await.ok()?)),
            StatusCode::NOT_FOUND => Some(None),
            _ => None,
        }
    }

    /// Sends a signed envelope, and brings the bytes of one back.
    pub async fn exchange(&self, envelope: Vec<u8>) -> Option<Bytes> {
        let request = self.http.post(format!("{}/sync/v1/exchange", self.url)).body(envelope);
        let answer = request.header("content-type", "application/x-protobuf").send().await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        answer.bytes().await.ok()
    }

    /// Deletes a key; whether it was acknowledged.
    pub async fn delete(&self, key: &str) -> bool {
        let answer = self.send(Method::DELETE, &format!("/v1/kv/{key}")).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// `/api/lattice/p2p/status`.
    pub async fn p2p_status(&self) -> Option<Value> {
        self.json("/api/lattice/p2p/status").await
    }

    /// Live peers; `None` while nobody can count them.
    pub async fn live_peers(&self) -> Option<u64> {
        let status = self.p2p_status().await?;
        (status["started"] == true).then(|| status["peer_count"].as_u64())?
    }

    /// `"P2P"`, `"HTTP"` or `"NONE"`.
    pub async fn sync_mode(&self) -> Option<String> {
        Some(self.p2p_status().await?["sync_mode"].as_str()?.to_owned())
    }

    /// One peer as the node sees it, by public key.
    pub async fn peer(&self, public_key: &str) -> Option<Value> {
        let peers = self.json("/api/lattice/peers").await?;
        peers["peers"].as_array()?.iter().find(|peer| peer["public_key"] == public_key).cloned()
    }

    /// Ended pulls, newest first.
    pub async fn heals(&self) -> Option<Vec<Value>> {
        Some(self.json("/api/lattice/heals?limit=1000").await?["heals"].as_array()?.clone())
    }

    /// The recent seals, ascending.
    pub async fn runs(&self) -> Option<Vec<Run>> {
        let state = self.json("/api/lattice/state").await?;
        state["seals"]
            .as_array()?
            .iter()
            .map(|run| {
                Some(Run {
                    from: run["epoch_from"].as_u64()?,
                    to: run["epoch_to"].as_u64()?,
                    root: run["root"].as_str().map(str::to_owned),
                })
            })
            .collect()
    }

    /// The value of a metric line that begins with `series`; `None` when there is none.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.send(Method::GET, "/metrics").await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// The sum of all series of a metric family whose name and labels begin with `prefix`.
    pub async fn metric_sum(&self, prefix: &str) -> Option<f64> {
        let text = self.send(Method::GET, "/metrics").await.ok()?.text().await.ok()?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// The root that all nodes have at their newest common epoch, if that lies after `after`.
pub async fn common_root(clients: &[&Client], after: u64) -> Option<(u64, String)> {
    let mut all = Vec::new();
    for client in clients {
        all.push(client.runs().await?);
    }
    let epoch = all.iter().map(|runs| runs.last().map_or(0, |run| run.to)).min()?;
    let at = |runs: &Vec<Run>| runs.iter().find(|run| run.from <= epoch && epoch <= run.to)?.root.clone();
    let first = at(all.first()?)?;
    (epoch > after && all.iter().all(|runs| at(runs).as_ref() == Some(&first))).then_some((epoch, first))
}
