//! A client of `lattice.kv.v1.KeyValue`, which the state store and the gateway both serve.

use bytes::Bytes;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::{BatchRequest, GetRequest, ListRequest, Operation, PutRequest, operation};
use lattice_proto::types::v1::entry::Content;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::server::KeyValue;

/// One connection to it; clones share it.
#[derive(Clone, Debug)]
pub struct Client(KeyValueClient<Channel>);

impl Client {
    /// A client of what `channel` reaches.
    pub fn new(channel: Channel) -> Self {
        Self(KeyValueClient::new(channel))
    }
}

fn put((key, value): (Bytes, Bytes)) -> PutRequest {
    PutRequest { key, value, ttl_ms: None, condition: None }
}

impl KeyValue for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        self.0.put(put((key, value))).await.map(|_| ())
    }

    async fn put_all(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Status> {
        let operation = |entry| Operation { operation: Some(operation::Operation::Put(put(entry))) };
        let operations = entries.into_iter().map(operation).collect();
        self.0.batch(BatchRequest { operations }).await.map(|_| ())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, Status> {
        let entry = match self.0.get(GetRequest { key, version_min: None }).await {
            Ok(response) => response.into_inner().entry,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        Ok(entry.and_then(|entry| match entry.content {
            Some(Content::Value(value)) => Some(value.len()),
            Some(Content::Tombstone(_) | Content::Dropped(_)) | None => None,
        }))
    }

    async fn scan(&mut self, prefix: Bytes, limit: u32) -> Result<usize, Status> {
        let request = ListRequest { prefix, limit, ..ListRequest::default() };
        Ok(self.0.list(request).await?.into_inner().entries.len())
    }
}
