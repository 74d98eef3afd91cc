//! Gossip: how deltas travel, and which are let in.
//!
//! Signatures are strict, and [`Gate`] refuses what no trusted node signed before it is kept, handed on or
//! forwarded. Own messages go to every subscriber at once (`flood_publish`), so that two nodes, which have no
//! mesh to speak of, hear each other as well as fifty do; what others wrote is forwarded along the mesh only,
//! which keeps the traffic of a full mesh of connections linear.
//!
//! Memory is bounded by bytes: a delta may take a megabyte. gossipsub counts only messages, so the queue to each
//! peer is short, and nothing is kept to be asked for again (no history): a peer that missed a delta pulls. What
//! finds no room, or waits too long, is lost and counted.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lattice_core::model::NodeId;
use lattice_proto::codec::DELTA_BYTES_MAX;
use libp2p::gossipsub::{
    self, ConfigBuilderError, DataTransform, IdentTopic, Message, MessageAuthenticity, RawMessage, TopicHash,
    ValidationMode, WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;

use crate::identity;
use crate::metrics::{Gossip, Metrics};

/// Deltas that wait for one slow peer: 32 MiB at the worst.
const QUEUE_MAX: usize = 32;
/// How long a delta of ours may wait for a slow peer. After that, a pull is as fast.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a delta of another node may.
const FORWARD_WAIT_MAX: Duration = Duration::from_secs(2);
/// What gossipsub adds to a message: names, numbers, a signature.
const FRAME_BYTES: usize = 16 << 10;

/// gossipsub, as it is used here.
pub(crate) type Behaviour = gossipsub::Behaviour<Gate, WhitelistSubscriptionFilter>;

/// Lets deltas of trusted nodes in, and no others. Clones share whom they trust.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    trusted: Arc<RwLock<BTreeSet<NodeId>>>,
    metrics: Metrics,
}

/// Subscribes to `topic`, and to nothing else.
pub(crate) fn behaviour(keypair: &Keypair, topic: &IdentTopic, gate: Gate) -> Result<Behaviour, String> {
    let config = config().map_err(|error| error.to_string())?;
    let filter = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Signed(keypair.clone()),
        config,
        filter,
        gate,
    )?;
    gossip.subscribe(topic).map_err(|error| error.to_string())?;
    Ok(gossip)
}

fn config() -> Result<gossipsub::Config, ConfigBuilderError> {
    gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .max_transmit_size(DELTA_BYTES_MAX + FRAME_BYTES)
        .connection_handler_queue_len(QUEUE_MAX)
        .publish_queue_duration(PUBLISH_WAIT_MAX)
        .forward_queue_duration(FORWARD_WAIT_MAX)
        .history_length(0)
        .history_gossip(0)
        .flood_publish(true)
        .build()
}

impl Gate {
    /// Trusts nobody yet.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { trusted: Arc::default(), metrics }
    }

    /// Lets in what these signed, from now on.
    pub(crate) fn set_trusted(&self, trusted: BTreeSet<NodeId>) {
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = trusted;
    }

    /// The author need not be connected to us.
    fn judge(&self, message: &RawMessage) -> Result<(), &'static str> {
        let author = message.source.as_ref().and_then(|peer| identity::node_id(peer).ok());
        let author = author.ok_or("it is signed by no node")?;
        if !self.trusted.read().unwrap_or_else(PoisonError::into_inner).contains(&author) {
            return Err("its author is not trusted");
        }
        if message.data.len() > DELTA_BYTES_MAX {
            return Err("it is too large");
        }
        Ok(())
    }
}

impl DataTransform for Gate {
    fn inbound_transform(&self, message: RawMessage) -> Result<Message, io::Error> {
        if let Err(reason) = self.judge(&message) {
            tracing::debug!(reason, "delta refused");
            self.metrics.gossip(Gossip::Refused);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let RawMessage { source, data, sequence_number, topic, .. } = message;
        Ok(Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    fn by(source: Option<PeerId>, bytes: usize) -> RawMessage {
        RawMessage {
            source,
            data: vec![7; bytes],
            sequence_number: Some(1),
            topic: IdentTopic::new("topic").hash(),
            signature: None,
            key: None,
            validated: false,
        }
    }

    #[test]
    fn only_trusted_authors_pass_and_only_deltas_of_a_legal_size() {
        let gate = Gate::new(Metrics::default());
        let keypair = Keypair::generate_ed25519();
        let friend = keypair.public().to_peer_id();
        let passes = |source, bytes| gate.inbound_transform(by(source, bytes)).is_ok();
        assert!(!passes(Some(friend), 1), "nobody is trusted");
        gate.clone().set_trusted(BTreeSet::from([identity::node_id(&friend).unwrap()]));
        assert!(passes(Some(friend), DELTA_BYTES_MAX));
        assert!(!passes(Some(friend), DELTA_BYTES_MAX + 1));
        assert!(!passes(Some(PeerId::random()), 1) && !passes(None, 1));
    }

    #[test]
    fn what_is_kept_for_others_is_bounded() {
        let config = config().unwrap();
        assert_eq!(config.history_length(), 0, "no message is kept after it was sent");
        let queue = config.connection_handler_queue_len() * config.max_transmit_size();
        assert!(queue <= 33 << 20, "{queue} bytes wait for one slow peer");
    }
}
