//! What was heard of peers: for hello answers, and so that a replaced incarnation is never believed again.
//!
//! The incarnations are durable; how far each was heard is not: it is told again with the next announcement.

use std::collections::BTreeMap;

use bytes::Bytes;
use lattice_core::model::{Epoch, Incarnation, NodeId};

use super::{Engine, Error};
use crate::format::{Damaged, keys, record};
use crate::storage::Batch;

/// The most peers remembered.
pub(crate) const NODES_MAX: usize = 1_024;
/// The most replaced incarnations remembered of a peer.
const REPLACED_MAX: usize = 64;

/// What was heard of all peers.
pub(super) type HeardMap = BTreeMap<NodeId, Heard>;

/// What was heard of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) incarnation: Incarnation,
    /// The last ones replaced, oldest first.
    pub(super) replaced: Vec<Incarnation>,
    pub(super) sequence: u64,
    pub(super) epoch: Epoch,
}

impl Heard {
    /// What a record says.
    pub(super) fn parse(at: &[u8], record: record::Heard) -> Result<Self, Damaged> {
        let replaced = record.replaced.iter().map(|replaced| record::incarnation(at, replaced));
        Ok(Self {
            incarnation: record::incarnation(at, &record.incarnation)?,
            replaced: replaced.collect::<Result<_, _>>()?,
            sequence: 0,
            epoch: Epoch(0),
        })
    }

    fn record(&self) -> record::Heard {
        let bytes = |incarnation: &Incarnation| Bytes::copy_from_slice(&incarnation.0);
        record::Heard {
            incarnation: bytes(&self.incarnation),
            replaced: self.replaced.iter().map(bytes).collect(),
        }
    }
}

impl Engine {
    /// Notes what was heard of a trusted peer. Another incarnation than the one noted replaces it, durably; one
    /// that was replaced before is not believed: then nothing happens, and the one that is believed is returned.
    /// Beyond a thousand peers, strangers to these are not noted.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn heard(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        sequence: u64,
        epoch: Epoch,
    ) -> Result<Option<Incarnation>, Error> {
        let known = self.shared.heard().get(&node).cloned();
        let (mut heard, durable) = match known {
            Some(heard) if heard.incarnation == incarnation => (heard, true),
            Some(heard) if heard.replaced.contains(&incarnation) => return Ok(Some(heard.incarnation)),
            Some(mut heard) => {
                if heard.replaced.len() == REPLACED_MAX {
                    heard.replaced.remove(0);
                }
                heard.replaced.push(heard.incarnation);
                (Heard { incarnation, sequence: 0, epoch: Epoch(0), ..heard }, false)
            }
            None if self.shared.heard().len() >= NODES_MAX => return Ok(None),
            None => (Heard { incarnation, replaced: Vec::new(), sequence: 0, epoch: Epoch(0) }, false),
        };
        heard.sequence = heard.sequence.max(sequence);
        heard.epoch = heard.epoch.max(epoch);
        if !durable {
            let at = keys::heard(&node);
            let mut batch = Batch::default();
            let framed = record::encode(&at, &heard.record());
            batch.put(at, framed);
            self.commit_batch(&mut batch)?;
        }
        self.shared.heard().insert(node, heard);
        Ok(None)
    }
}
