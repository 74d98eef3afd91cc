//! What siblings ask of the store, as far as it is more than single fields.

use lattice_core::exchange::POSITIONS_MAX;
use lattice_core::model::{Entry, EntryHead, EpochLength, Incarnation, Key, NodeId};
use lattice_core::seal::Run;
use lattice_core::signed::SignedSeal;
use lattice_core::tree::{BUCKET_ENTRIES_MAX, Node, Position};

use super::field::{at_most, epoch_length, incarnation, key, list, node, optional};
use super::peer::summaries;
use super::reply::children;
use super::types::{bytes_of, runs};
use super::{InField as _, Invalid};
use crate::store::v1 as wire;

/// The most entries of one merge.
pub const MERGE_ENTRIES_MAX: usize = lattice_core::pull::MERGE_MAX;
/// The most bytes of one merge's entries together.
pub const MERGE_BYTES_MAX: usize = 4 << 20;
/// The most heads of one comparison.
pub const COMPARE_HEADS_MAX: usize = 8_192;

/// The most damaged keys of one page.
pub const DAMAGED_MAX: usize = 1_000;

/// The store's recent seals, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seals {
    /// Whose store.
    pub node: NodeId,
    /// Which store.
    pub incarnation: Incarnation,
    /// Raised whenever the store finds, drops or sets aside anything it held.
    pub damage_generation: u64,
    /// Recent seals in ascending order; empty before the first.
    pub runs: Vec<Run>,
    /// Entries of the newest seal that had not expired at its epoch's end.
    pub state_size: u64,
    /// How long an epoch is.
    pub epoch_length: EpochLength,
    /// The newest seal; `None` before the first.
    pub newest: Option<SignedSeal>,
    /// Why sealing is halted; empty when it goes on.
    pub halted: String,
    /// The store lost entries, and does not know which, until its peers have filled it again.
    pub recovering: bool,
    /// How many keys are known to be damaged.
    pub damaged: u64,
}

impl From<&Seals> for wire::SealsResponse {
    fn from(seals: &Seals) -> Self {
        Self {
            node: bytes_of(seals.node.as_bytes()),
            incarnation: bytes_of(&seals.incarnation.0),
            damage_generation: seals.damage_generation,
            runs: seals.runs.iter().map(Into::into).collect(),
            state_size: seals.state_size,
            epoch_ms: seals.epoch_length.0.get(),
            newest: seals.newest.as_ref().map(Into::into),
            halted: seals.halted.clone(),
            recovering: seals.recovering,
            damaged: seals.damaged,
        }
    }
}

impl TryFrom<wire::SealsResponse> for Seals {
    type Error = Invalid;

    fn try_from(wire: wire::SealsResponse) -> Result<Self, Invalid> {
        Ok(Self {
            node: node("node", &wire.node)?,
            incarnation: incarnation("incarnation", &wire.incarnation)?,
            damage_generation: wire.damage_generation,
            runs: runs("runs", wire.runs)?,
            state_size: wire.state_size,
            epoch_length: epoch_length("epoch_ms", wire.epoch_ms)?,
            newest: optional("newest", wire.newest)?,
            halted: wire.halted,
            recovering: wire.recovering,
            damaged: wire.damaged,
        })
    }
}

/// Keys whose entries are damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damaged {
    /// In order of key, with what each entry was, where that is known.
    pub entries: Vec<(Key, Option<EntryHead>)>,
    /// So many that they are no longer listed one by one.
    pub overflow: bool,
}

/// At most as many as one page holds.
impl TryFrom<wire::DamagedResponse> for Damaged {
    type Error = Invalid;

    fn try_from(wire: wire::DamagedResponse) -> Result<Self, Invalid> {
        at_most("entries", wire.entries.len(), DAMAGED_MAX)?;
        let entry = |(index, entry): (usize, wire::DamagedEntry)| {
            let key = key("key", entry.key).in_item("entries", index)?;
            Ok((key, optional("head", entry.head).in_item("entries", index)?))
        };
        let entries = wire.entries.into_iter().enumerate().map(entry).collect::<Result<_, Invalid>>()?;
        Ok(Self { entries, overflow: wire.overflow })
    }
}

/// Entries to merge, and how they came here.
///
/// # Errors
/// [`Invalid`] beyond [`MERGE_ENTRIES_MAX`] or [`MERGE_BYTES_MAX`], for an entry that is none, or without an
/// origin.
pub fn merge(request: wire::MergeRequest) -> Result<(Vec<Entry>, wire::Origin), Invalid> {
    let origin = match wire::Origin::try_from(request.origin) {
        Ok(wire::Origin::Unspecified) => return Err(Invalid::missing("origin")),
        Ok(origin @ (wire::Origin::Delta | wire::Origin::Pull | wire::Origin::Repair)) => origin,
        Err(_) => {
            return Err(Invalid::new("origin", format!("is none that is known here: {}", request.origin)));
        }
    };
    at_most("entries", request.entries.len(), MERGE_ENTRIES_MAX)?;
    let bytes: usize = request.entries.iter().map(prost::Message::encoded_len).sum();
    if bytes > MERGE_BYTES_MAX {
        return Err(Invalid::new(
            "entries",
            format!("take at most {MERGE_BYTES_MAX} bytes together, got {bytes}"),
        ));
    }
    Ok((list("entries", request.entries, MERGE_ENTRIES_MAX)?, origin))
}

/// The positions that are asked for.
///
/// # Errors
/// [`Invalid`] beyond [`POSITIONS_MAX`], or for one that is none.
pub fn positions(request: wire::NodesRequest) -> Result<Vec<Position>, Invalid> {
    list("positions", request.positions, POSITIONS_MAX)
}

/// What the tree here has at a position.
impl From<&Node> for wire::OwnNode {
    fn from(node: &Node) -> Self {
        match node {
            Node::Inner(children) => Self { children: summaries(&**children), heads: Vec::new() },
            Node::Bucket(heads) => {
                Self { children: Vec::new(), heads: heads.iter().map(Into::into).collect() }
            }
        }
    }
}

/// What the tree here has at `position`: the children of an inner node, or else the heads below there.
///
/// # Errors
/// [`Invalid`] unless it is one of the two.
pub fn own_node(position: &Position, wire: wire::OwnNode) -> Result<Node, Invalid> {
    if wire.children.is_empty() {
        let heads = list("heads", wire.heads, BUCKET_ENTRIES_MAX)?;
        return Node::bucket(position, heads).map_err(|error| Invalid::new("heads", error));
    }
    at_most("heads", wire.heads.len(), 0)?;
    Node::inner(children("children", wire.children)?).map_err(|error| Invalid::new("children", error))
}

/// The heads to compare with the live map.
///
/// # Errors
/// [`Invalid`] beyond [`COMPARE_HEADS_MAX`], or for one that is none.
pub fn compare_heads(request: wire::CompareRequest) -> Result<Vec<EntryHead>, Invalid> {
    list("heads", request.heads, COMPARE_HEADS_MAX)
}
