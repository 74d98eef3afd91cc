//! Responses: what the one who serves answers.

use lattice_core::exchange::{
    Answer, FETCH_ENTRIES_MAX, POSITIONS_MAX, Page, PageBucket, Reason, Refusal, Response, Shape, WalkNode,
};
use lattice_core::model::{Entry, EntryHead, Epoch};
use lattice_core::time::WallTime;
use lattice_core::tree::{BUCKET_ENTRIES_MAX, Chains, FANOUT, Position, Summary};

use super::field::{DETAIL_BYTES_MAX, challenge, list, optional, required, some_at_most, text};
use super::peer::summaries;
use super::types::bytes_of;
use super::{InField as _, Invalid};
use crate::peer::v1 as wire;
use crate::peer::v1::response::Answer as WireAnswer;

/// The most inner nodes above the pages of an answer.
pub(crate) const BRANCHES_MAX: usize = POSITIONS_MAX * Position::DEPTH_MAX;

impl From<&Response> for wire::Response {
    fn from(response: &Response) -> Self {
        Self {
            next_challenge: bytes_of(&response.next_challenge),
            time_ms: response.time.millis(),
            answer: Some((&response.answer).into()),
        }
    }
}

impl TryFrom<wire::Response> for Response {
    type Error = Invalid;

    fn try_from(wire: wire::Response) -> Result<Self, Invalid> {
        Ok(Self {
            next_challenge: challenge("next_challenge", wire.next_challenge)?.to_vec(),
            time: WallTime(wire.time_ms),
            answer: wire.answer.ok_or_else(|| Invalid::missing("answer"))?.try_into()?,
        })
    }
}

impl From<&Answer> for WireAnswer {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Hello { heard_sequence, heard_epoch } => {
                Self::Hello(wire::HelloAnswer { heard_sequence: *heard_sequence, heard_epoch: heard_epoch.0 })
            }
            Answer::Walk { seal, nodes } => Self::Walk(wire::WalkAnswer {
                seal: Some(seal.into()),
                nodes: nodes.iter().map(Into::into).collect(),
            }),
            Answer::Fetch { seal, pages, chains } => Self::Fetch(wire::FetchAnswer {
                seal: Some(seal.into()),
                pages: pages.iter().map(Into::into).collect(),
                branches: chains.branches.iter().map(Into::into).collect(),
            }),
            Answer::Bye => Self::Bye(wire::ByeAnswer {}),
            Answer::Refused(refusal) => Self::Refused(refusal.into()),
        }
    }
}

impl TryFrom<WireAnswer> for Answer {
    type Error = Invalid;

    fn try_from(wire: WireAnswer) -> Result<Self, Invalid> {
        match wire {
            WireAnswer::Hello(wire::HelloAnswer { heard_sequence, heard_epoch }) => {
                Ok(Self::Hello { heard_sequence, heard_epoch: Epoch(heard_epoch) })
            }
            WireAnswer::Walk(wire::WalkAnswer { seal, nodes }) => {
                let seal = required("walk.seal", seal)?;
                some_at_most("walk.nodes", nodes.len(), POSITIONS_MAX)?;
                Ok(Self::Walk { seal, nodes: list("walk.nodes", nodes, POSITIONS_MAX)? })
            }
            WireAnswer::Fetch(wire::FetchAnswer { seal, pages, branches }) => {
                let seal = required("fetch.seal", seal)?;
                some_at_most("fetch.pages", pages.len(), POSITIONS_MAX)?;
                let pages: Vec<Page> = list("fetch.pages", pages, POSITIONS_MAX)?;
                let entries: usize = pages.iter().map(carried).sum();
                if entries > FETCH_ENTRIES_MAX {
                    let problem = format!("take at most {FETCH_ENTRIES_MAX} entries together, got {entries}");
                    return Err(Invalid::new("fetch.pages", problem));
                }
                let branches = list("fetch.branches", branches, BRANCHES_MAX)?;
                Ok(Self::Fetch { seal, pages, chains: Chains { branches } })
            }
            WireAnswer::Bye(wire::ByeAnswer {}) => Ok(Self::Bye),
            WireAnswer::Refused(refusal) => {
                Ok(Self::Refused(Refusal::try_from(refusal).in_field("refused")?))
            }
        }
    }
}

/// How many entries a page carries, those included of which it carries the head.
fn carried(page: &Page) -> usize {
    match &page.bucket {
        PageBucket::Entries { entries, heads, .. } => entries.len() + heads.len(),
        PageBucket::Split(_) => 0,
    }
}

impl From<&WalkNode> for wire::WalkNode {
    fn from(node: &WalkNode) -> Self {
        use wire::walk_node::Shape as WireShape;
        Self {
            position: Some((&node.position).into()),
            chain: node.chain.as_ref().map(Into::into),
            shape: Some(match &node.shape {
                Shape::Inner { equal, others } => {
                    WireShape::Inner(wire::Inner { equal: u32::from(*equal), others: summaries(others) })
                }
                Shape::Bucket => WireShape::Bucket(wire::Bucket {}),
            }),
        }
    }
}

impl TryFrom<wire::WalkNode> for WalkNode {
    type Error = Invalid;

    fn try_from(wire: wire::WalkNode) -> Result<Self, Invalid> {
        use wire::walk_node::Shape as WireShape;
        Ok(Self {
            position: required("position", wire.position)?,
            chain: optional("chain", wire.chain)?,
            shape: match wire.shape.ok_or_else(|| Invalid::missing("shape"))? {
                WireShape::Inner(shape) => inner(shape).in_field("inner")?,
                WireShape::Bucket(wire::Bucket {}) => Shape::Bucket,
            },
        })
    }
}

fn inner(wire: wire::Inner) -> Result<Shape, Invalid> {
    let equal = u16::try_from(wire.equal)
        .map_err(|_| Invalid::new("equal", format!("takes {FANOUT} bits, got {:#x}", wire.equal)))?;
    let others: Vec<Summary> = list("others", wire.others, FANOUT)?;
    let expected = equal.count_zeros() as usize;
    match others.len() == expected {
        true => Ok(Shape::Inner { equal, others }),
        false => {
            let problem = format!("takes the {expected} children that are not equal, got {}", others.len());
            Err(Invalid::new("others", problem))
        }
    }
}

impl From<&Page> for wire::Page {
    fn from(page: &Page) -> Self {
        use wire::page::Bucket as WireBucket;
        Self {
            position: Some((&page.position).into()),
            bucket: Some(match &page.bucket {
                PageBucket::Entries { known, entries, heads } => WireBucket::Entries(wire::Entries {
                    known: *known,
                    entries: entries.iter().map(Into::into).collect(),
                    heads: heads.iter().map(Into::into).collect(),
                }),
                PageBucket::Split(children) => {
                    WireBucket::Split(wire::Split { children: summaries(children) })
                }
            }),
        }
    }
}

impl TryFrom<wire::Page> for Page {
    type Error = Invalid;

    fn try_from(wire: wire::Page) -> Result<Self, Invalid> {
        use wire::page::Bucket as WireBucket;
        Ok(Self {
            position: required("position", wire.position)?,
            bucket: match wire.bucket.ok_or_else(|| Invalid::missing("bucket"))? {
                WireBucket::Entries(bucket) => entries(bucket).in_field("entries")?,
                WireBucket::Split(split) => {
                    PageBucket::Split(children("children", split.children).in_field("split")?)
                }
            },
        })
    }
}

fn entries(wire: wire::Entries) -> Result<PageBucket, Invalid> {
    let known = wire.known;
    let count = wire.entries.len() + wire.heads.len() + known.count_ones() as usize;
    if count > BUCKET_ENTRIES_MAX {
        let problem =
            format!("holds at most {BUCKET_ENTRIES_MAX} entries, known and told ones included, got {count}");
        return Err(Invalid::new("", problem));
    }
    let entries: Vec<Entry> = list("entries", wire.entries, BUCKET_ENTRIES_MAX)?;
    let heads: Vec<EntryHead> = list("heads", wire.heads, BUCKET_ENTRIES_MAX)?;
    Ok(PageBucket::Entries { known, entries, heads })
}

/// All the children of an inner node.
pub(super) fn children(field: &str, wire: Vec<crate::types::v1::Summary>) -> Result<Vec<Summary>, Invalid> {
    match wire.len() {
        FANOUT => list(field, wire, FANOUT),
        count => Err(Invalid::new(field, format!("an inner node has {FANOUT} children, got {count}"))),
    }
}

impl From<&Refusal> for wire::Refusal {
    fn from(refusal: &Refusal) -> Self {
        let end = refusal.detail.floor_char_boundary(DETAIL_BYTES_MAX);
        Self {
            reason: wire::Reason::from(refusal.reason).into(),
            detail: refusal.detail[..end].replace(char::is_control, " "),
        }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = Invalid;

    fn try_from(wire: wire::Refusal) -> Result<Self, Invalid> {
        let unknown = || Invalid::new("reason", format!("is none that is known here: {}", wire.reason));
        let reason = wire::Reason::try_from(wire.reason).map_err(|_| unknown())?;
        Ok(Self {
            reason: reason.try_into().in_field("reason")?,
            detail: text("detail", wire.detail, DETAIL_BYTES_MAX)?,
        })
    }
}

impl From<Reason> for wire::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Challenge => Self::Challenge,
            Reason::Untrusted => Self::Untrusted,
            Reason::Cluster => Self::Cluster,
            Reason::Receiver => Self::Receiver,
            Reason::Incarnation => Self::Incarnation,
            Reason::Signature => Self::Signature,
            Reason::Malformed => Self::Malformed,
            Reason::Empty => Self::Empty,
            Reason::Busy => Self::Busy,
            Reason::Unavailable => Self::Unavailable,
        }
    }
}

impl TryFrom<wire::Reason> for Reason {
    type Error = Invalid;

    fn try_from(wire: wire::Reason) -> Result<Self, Invalid> {
        match wire {
            wire::Reason::Unspecified => Err(Invalid::missing("")),
            wire::Reason::Challenge => Ok(Self::Challenge),
            wire::Reason::Untrusted => Ok(Self::Untrusted),
            wire::Reason::Cluster => Ok(Self::Cluster),
            wire::Reason::Receiver => Ok(Self::Receiver),
            wire::Reason::Incarnation => Ok(Self::Incarnation),
            wire::Reason::Signature => Ok(Self::Signature),
            wire::Reason::Malformed => Ok(Self::Malformed),
            wire::Reason::Empty => Ok(Self::Empty),
            wire::Reason::Busy => Ok(Self::Busy),
            wire::Reason::Unavailable => Ok(Self::Unavailable),
        }
    }
}
