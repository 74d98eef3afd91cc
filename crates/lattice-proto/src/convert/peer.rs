//! Announcements, and the places and proofs that requests and responses share.

use lattice_core::model::{Digest, Incarnation, NodeId};
use lattice_core::signed::{Announcement, Signed, SignedAnnouncement, SignedSeal};
use lattice_core::time::WallTime;
use lattice_core::tree::{Branch, Chain, FANOUT, Level, Position, SIBLINGS, Summary};

use super::field::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, NAME_BYTES_MAX, at_most, cluster, epoch_length, incarnation, list,
    node, text,
};
use super::types::{bytes_of, runs};
use super::{InField as _, Invalid};
use crate::codec::{OpenError, decode_announcement, decode_seal};
use crate::peer::v1 as wire;
use crate::types::v1 as types;

impl From<&Announcement> for wire::Announcement {
    fn from(announcement: &Announcement) -> Self {
        Self {
            cluster: announcement.cluster.clone(),
            node: bytes_of(announcement.node.as_bytes()),
            incarnation: bytes_of(&announcement.incarnation.0),
            sequence: announcement.sequence,
            time_ms: announcement.time.millis(),
            epoch_ms: announcement.epoch_length.0.get(),
            runs: announcement.runs.iter().map(Into::into).collect(),
            addresses: announcement.addresses.clone(),
            name: announcement.name.clone(),
            recovering: announcement.recovering,
        }
    }
}

impl TryFrom<wire::Announcement> for Announcement {
    type Error = Invalid;

    fn try_from(wire: wire::Announcement) -> Result<Self, Invalid> {
        let node: NodeId = node("node", &wire.node)?;
        let incarnation: Incarnation = incarnation("incarnation", &wire.incarnation)?;
        Ok(Self {
            cluster: cluster("cluster", wire.cluster)?,
            node,
            incarnation,
            sequence: wire.sequence,
            time: WallTime(wire.time_ms),
            epoch_length: epoch_length("epoch_ms", wire.epoch_ms)?,
            runs: runs("runs", wire.runs)?,
            addresses: addresses(wire.addresses)?,
            name: text("name", wire.name, NAME_BYTES_MAX)?,
            recovering: wire.recovering,
        })
    }
}

fn addresses(wire: Vec<String>) -> Result<Vec<String>, Invalid> {
    at_most("addresses", wire.len(), ADDRESSES_MAX)?;
    let parse = |(index, address)| text("", address, ADDRESS_BYTES_MAX).in_item("addresses", index);
    wire.into_iter().enumerate().map(parse).collect()
}

/// Not yet verified; [`SignedAnnouncement::verify`] is the caller's.
impl TryFrom<types::Signed> for SignedAnnouncement {
    type Error = Invalid;

    fn try_from(wire: types::Signed) -> Result<Self, Invalid> {
        decode_announcement(&Signed::try_from(wire)?).map_err(in_body)
    }
}

/// Not yet verified; [`SignedSeal::verify`] is the caller's.
impl TryFrom<types::Signed> for SignedSeal {
    type Error = Invalid;

    fn try_from(wire: types::Signed) -> Result<Self, Invalid> {
        decode_seal(&Signed::try_from(wire)?).map_err(in_body)
    }
}

fn in_body(error: OpenError) -> Invalid {
    match error {
        OpenError::Malformed(invalid) => invalid.within("body"),
        OpenError::TooLarge { .. } | OpenError::Signature => Invalid::new("body", error),
    }
}

impl From<&SignedAnnouncement> for types::Signed {
    fn from(announcement: &SignedAnnouncement) -> Self {
        (&announcement.signed).into()
    }
}

impl From<&SignedSeal> for types::Signed {
    fn from(seal: &SignedSeal) -> Self {
        (&seal.signed).into()
    }
}

impl From<&Chain> for wire::Chain {
    fn from(chain: &Chain) -> Self {
        Self { levels: chain.levels.iter().map(Into::into).collect() }
    }
}

impl TryFrom<wire::Chain> for Chain {
    type Error = Invalid;

    fn try_from(wire: wire::Chain) -> Result<Self, Invalid> {
        Ok(Self { levels: list("levels", wire.levels, Position::DEPTH_MAX)? })
    }
}

impl From<&Level> for wire::Level {
    fn from(level: &Level) -> Self {
        let siblings: Vec<u8> = level.siblings.iter().flat_map(|digest| digest.0).collect();
        Self { entries: level.entries, tombstones: level.tombstones, siblings: siblings.into() }
    }
}

impl TryFrom<wire::Level> for Level {
    type Error = Invalid;

    fn try_from(wire: wire::Level) -> Result<Self, Invalid> {
        let (digests, rest) = wire.siblings.as_chunks::<32>();
        let siblings: Result<&[[u8; 32]; SIBLINGS], _> = digests.try_into();
        let (Ok(siblings), true) = (siblings, rest.is_empty()) else {
            let problem =
                format!("siblings are {SIBLINGS} digests of 32 bytes, got {} bytes", wire.siblings.len());
            return Err(Invalid::new("siblings", problem));
        };
        Ok(Self { entries: wire.entries, tombstones: wire.tombstones, siblings: siblings.map(Digest) })
    }
}

impl From<&Branch> for wire::Branch {
    fn from(branch: &Branch) -> Self {
        let siblings: Vec<u8> = branch.siblings.iter().flat_map(|digest| digest.0).collect();
        Self { entries: branch.entries, tombstones: branch.tombstones, siblings: siblings.into() }
    }
}

impl TryFrom<wire::Branch> for Branch {
    type Error = Invalid;

    fn try_from(wire: wire::Branch) -> Result<Self, Invalid> {
        let (digests, rest) = wire.siblings.as_chunks::<32>();
        if digests.len() >= FANOUT || !rest.is_empty() {
            let problem = format!(
                "siblings are at most {} digests of 32 bytes, got {} bytes",
                FANOUT - 1,
                wire.siblings.len()
            );
            return Err(Invalid::new("siblings", problem));
        }
        let siblings = digests.iter().copied().map(Digest).collect();
        Ok(Self { entries: wire.entries, tombstones: wire.tombstones, siblings })
    }
}

/// Summaries as their wire type.
pub(super) fn summaries(summaries: &[Summary]) -> Vec<types::Summary> {
    summaries.iter().map(Into::into).collect()
}
