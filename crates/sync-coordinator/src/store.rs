//! The state store, as the coordinator calls it.
//!
//! Each call has a deadline and an answer in the words of the model; what the wire says besides is refused
//! here. Which streams of the store are kept open, and what they mean, is for [`crate::shell`].

use std::time::Duration;

use lattice_core::coordinator::Clock as Judgement;
use lattice_core::model::{Entry, EntryHead, Epoch, Incarnation, Key, NodeId};
use lattice_core::pull::MergeCounts;
use lattice_core::tree::{Node, Position};
use lattice_proto::convert::{self, Damaged, Invalid, Seals};
use lattice_proto::store::v1 as wire;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::grpc::{Channel, MESSAGE_BYTES_MAX};
use tonic::{Status, Streaming};

use crate::streams::reason;

/// The longest wait for one answer of the store: a merge waits for the disk behind other writers.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Calls the store; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    calls: StateStoreClient<Channel>,
    watches: StateStoreClient<Channel>,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It did not answer, or refused.
    #[error("store: {}", reason(.0))]
    Status(#[from] Status),
    /// It answered something else.
    #[error("store: answer is malformed: {0}")]
    Malformed(#[from] Invalid),
}

/// What the live map says of a page's heads.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) missing: Vec<usize>,
    pub(crate) ahead: Vec<usize>,
}

/// An announcement sequence number that nobody else ever uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) incarnation: Incarnation,
    pub(crate) sequence: u64,
}

impl Store {
    pub(crate) fn new(channel: &Channel) -> Self {
        let client = |channel| {
            StateStoreClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        Self { calls: client(channel.deadline(DEADLINE)), watches: client(channel.clone()) }
    }

    /// The recent seals; idle time is extended on disk before it is told.
    pub(crate) async fn seals(&self) -> Result<Seals, Error> {
        let answer = self.calls.clone().seals(wire::SealsRequest {}).await?;
        Ok(answer.into_inner().try_into()?)
    }

    pub(crate) async fn merge(&self, entries: &[Entry], origin: wire::Origin) -> Result<MergeCounts, Error> {
        let entries = entries.iter().map(Into::into).collect();
        let request = wire::MergeRequest { entries, origin: origin.into() };
        let answer = self.calls.clone().merge(request).await?.into_inner();
        Ok(MergeCounts {
            merged: answer.merged,
            known: answer.known,
            held: answer.held,
            dropped: answer.dropped,
            repaired: answer.repaired,
        })
    }

    /// Our own tree at `positions`, in that order.
    pub(crate) async fn nodes(&self, positions: &[Position]) -> Result<Vec<Node>, Error> {
        let request = wire::NodesRequest { positions: positions.iter().map(Into::into).collect() };
        let answer = self.calls.clone().nodes(request).await?.into_inner();
        if answer.nodes.len() != positions.len() {
            let problem = format!("has {} items for {} positions", answer.nodes.len(), positions.len());
            return Err(Invalid::new("nodes", problem).into());
        }
        let own = positions.iter().zip(answer.nodes);
        Ok(own.map(|(position, node)| convert::own_node(position, node)).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn compare(&self, heads: &[EntryHead]) -> Result<Compared, Error> {
        let request = wire::CompareRequest { heads: heads.iter().map(Into::into).collect() };
        let answer = self.calls.clone().compare(request).await?.into_inner();
        let missing = indexes("missing", &answer.missing, heads.len())?;
        let ahead = indexes("ahead", &answer.ahead, heads.len())?;
        Ok(Compared { missing, ahead })
    }

    /// Answers a peer's request; the bytes are the peer's and the store's alone.
    pub(crate) async fn exchange(
        &self,
        request: wire::ExchangeRequest,
        timeout: Duration,
    ) -> Result<wire::ExchangeResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(timeout);
        Ok(self.calls.clone().exchange(request).await?.into_inner())
    }

    pub(crate) async fn reserve(&self) -> Result<Reserved, Error> {
        let request = wire::ReserveSequenceRequest { count: 1 };
        let answer = self.calls.clone().reserve_sequence(request).await?.into_inner();
        let incarnation = convert::incarnation("incarnation", &answer.incarnation)?;
        if answer.count == 0 {
            return Err(Invalid::new("count", "is 0: nothing was reserved").into());
        }
        Ok(Reserved { incarnation, sequence: answer.first })
    }

    /// Tells what was heard from a peer, for hello answers and against replaced incarnations.
    pub(crate) async fn heard(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
    ) -> Result<Option<Incarnation>, Error> {
        let request = wire::HeardRequest {
            node: node.as_bytes().to_vec().into(),
            incarnation: incarnation.0.to_vec().into(),
            sequence,
            epoch: epoch.0,
        };
        let replaced_by = self.calls.clone().heard(request).await?.into_inner().replaced_by;
        match replaced_by.is_empty() {
            true => Ok(None),
            false => Ok(Some(convert::incarnation("replaced_by", &replaced_by)?)),
        }
    }

    /// Starts a new incarnation, unless `incarnation` was replaced already.
    pub(crate) async fn reincarnate(&self, incarnation: Incarnation) -> Result<Incarnation, Error> {
        let request = wire::ReincarnateRequest { incarnation: incarnation.0.to_vec().into() };
        let answer = self.calls.clone().reincarnate(request).await?.into_inner();
        Ok(convert::incarnation("incarnation", &answer.incarnation)?)
    }

    /// Keys that are damaged, after one of them; at most `limit`.
    pub(crate) async fn damaged(&self, after: Option<&Key>, limit: usize) -> Result<Damaged, Error> {
        let after = after.map(|key| key.as_bytes().to_vec().into()).unwrap_or_default();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = wire::DamagedRequest { after, limit };
        Ok(self.calls.clone().damaged(request).await?.into_inner().try_into()?)
    }

    /// Peers have filled our store again, while it had this incarnation.
    pub(crate) async fn recovered(&self, incarnation: Incarnation) -> Result<(), Status> {
        let request = wire::RecoveredRequest { incarnation: incarnation.0.to_vec().into() };
        self.calls.clone().recovered(request).await?;
        Ok(())
    }

    /// Tells what live trusted peers say of our clock.
    pub(crate) async fn judge_clock(&self, judgement: &Judgement) -> Result<(), Status> {
        let (verdict, detail) = match judgement {
            Judgement::Unknown => (wire::ClockVerdict::Unknown, String::new()),
            Judgement::Confirmed => (wire::ClockVerdict::Confirmed, String::new()),
            Judgement::Wrong { behind_ms, peers } => {
                let side = if *behind_ms > 0 { "behind" } else { "ahead" };
                let off = behind_ms.unsigned_abs();
                (
                    wire::ClockVerdict::Wrong,
                    format!("{off} ms {side}, say {} live trusted peers", peers.len()),
                )
            }
        };
        self.calls.clone().judge_clock(wire::JudgeClockRequest { verdict: verdict.into(), detail }).await?;
        Ok(())
    }

    pub(crate) async fn set_trust(&self, nodes: impl Iterator<Item = NodeId>) -> Result<(), Status> {
        let nodes = nodes.map(|node| node.as_bytes().to_vec().into()).collect();
        self.calls.clone().set_trust(wire::SetTrustRequest { nodes }).await?;
        Ok(())
    }

    pub(crate) async fn watch_seals(&self) -> Result<Streaming<wire::SealsResponse>, Status> {
        Ok(self.watches.clone().watch_seals(wire::WatchSealsRequest {}).await?.into_inner())
    }

    pub(crate) async fn watch_local_writes(&self) -> Result<Streaming<wire::LocalWrites>, Status> {
        Ok(self.watches.clone().watch_local_writes(wire::WatchLocalWritesRequest {}).await?.into_inner())
    }

    pub(crate) async fn watch_asked(&self) -> Result<Streaming<wire::Asked>, Status> {
        Ok(self.watches.clone().watch_asked(wire::WatchAskedRequest {}).await?.into_inner())
    }
}

/// Indexes into what was asked, ascending.
fn indexes(field: &str, indexes: &[u32], count: usize) -> Result<Vec<usize>, Invalid> {
    let ascending = indexes.windows(2).all(|pair| pair[0] < pair[1]);
    let within = indexes.last().is_none_or(|last| (*last as usize) < count);
    if ascending && within {
        return Ok(indexes.iter().map(|index| *index as usize).collect());
    }
    Err(Invalid::new(field, format!("takes ascending indexes below {count}")))
}
