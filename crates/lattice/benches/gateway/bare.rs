//! The least that a server built on axum can do for the same routes: a map in memory, and nothing else. No tokens, no
//! limits, no deadlines, no metrics, no traces, no versions, no disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use axum::extract::{Path as Named, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use lattice_bench::http::Client;
use lattice_bench::server::{Process, Server, free_address};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// It, in a process of its own.
pub(crate) struct Bare {
    process: Process,
    clients: Vec<Client>,
}

impl Bare {
    /// Starts one; it writes nothing below `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let program = std::env::current_exe().context("find this program")?;
        let mut process = Process::start(dir, |_| {
            let mut command = Command::new(program);
            command.args(["--bare", &address.to_string()]).stdin(Stdio::null());
            command
        })?;
        let client = Client::new(address);
        process.answers(client.clone()).await?;
        Ok(Self { process, clients: vec![client] })
    }
}

impl Server for Bare {
    type Client = Client;

    const NAME: &'static str = "bare axum";

    fn process(&self) -> &Process {
        &self.process
    }

    fn clients(&self) -> &[Client] {
        &self.clients
    }

    async fn rest(&self, _entries: u64) -> Result<()> {
        Ok(())
    }
}

/// Serves until it is killed.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    Runtime::new()?.block_on(async {
        let routes = Router::new()
            .route("/v1/kv", get(list))
            .route("/v1/kv/{*key}", get(read).put(write))
            .route("/v1/batch", post(batch))
            .with_state(Map::default());
        Ok(axum::serve(TcpListener::bind(address).await?, routes).await?)
    })
}

#[derive(Clone, Default)]
struct Map(Arc<RwLock<BTreeMap<String, Bytes>>>);

async fn read(
    State(map): State<Map>,
    Named(key): Named<String>,
) -> Result<([(header::HeaderName, &'static str); 1], Bytes), StatusCode> {
    let value = map.0.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let value = value.ok_or(StatusCode::NOT_FOUND)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], value))
}

#[derive(Serialize)]
struct Written {
    key: String,
}

async fn write(State(map): State<Map>, Named(key): Named<String>, value: Bytes) -> Json<Written> {
    // What was received may be part of a larger buffer.
    let value = Bytes::copy_from_slice(&value);
    map.0.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), value);
    Json(Written { key })
}

#[derive(Deserialize)]
struct Asked {
    prefix: String,
    limit: usize,
}

#[derive(Serialize)]
struct Page {
    entries: Vec<Entry>,
    next: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    value: String,
}

async fn list(State(map): State<Map>, Query(asked): Query<Asked>) -> Json<Page> {
    let map = map.0.read().unwrap_or_else(PoisonError::into_inner);
    let of_prefix = map.range(asked.prefix.clone()..).take_while(|(key, _)| key.starts_with(&asked.prefix));
    let entry = |(key, value): (&String, &Bytes)| Entry { key: key.clone(), value: STANDARD.encode(value) };
    Json(Page { entries: of_prefix.take(asked.limit).map(entry).collect(), next: None })
}

#[derive(Deserialize)]
struct Batch {
    operations: Vec<Entry>,
}

async fn batch(State(map): State<Map>, Json(batch): Json<Batch>) -> Result<Json<()>, StatusCode> {
    let mut map = map.0.write().unwrap_or_else(PoisonError::into_inner);
    for Entry { key, value } in batch.operations {
        let value = STANDARD.decode(value).map_err(|_| StatusCode::BAD_REQUEST)?;
        map.insert(key, value.into());
    }
    Ok(Json(()))
}
