//! Requests: what the one who pulls asks.

use lattice_core::exchange::{
    Ask, Digests, FetchAsk, KEYS_MAX, Known, POSITIONS_MAX, PullPart, Request, WalkAsk,
};
use lattice_core::model::{Digest, Epoch, KeyHash};
use lattice_core::tree::{BUCKET_ENTRIES_MAX, FANOUT};

use super::Invalid;
use super::field::{list, optional, required, some_at_most};
use super::types::bytes_of;
use crate::peer::v1 as wire;
use crate::peer::v1::request::Ask as WireAsk;

impl From<&Request> for wire::Request {
    fn from(request: &Request) -> Self {
        Self {
            announcement: request.announcement.as_ref().map(Into::into),
            pull: request.pull.as_ref().map(Into::into),
            ask: Some((&request.ask).into()),
        }
    }
}

impl TryFrom<wire::Request> for Request {
    type Error = Invalid;

    fn try_from(wire: wire::Request) -> Result<Self, Invalid> {
        Ok(Self {
            announcement: optional("announcement", wire.announcement)?,
            pull: wire.pull.map(PullPart::from),
            ask: wire.ask.ok_or_else(|| Invalid::missing("ask"))?.try_into()?,
        })
    }
}

impl From<&PullPart> for wire::PullPart {
    fn from(part: &PullPart) -> Self {
        Self { id: part.id, in_kind: part.in_kind }
    }
}

impl From<wire::PullPart> for PullPart {
    fn from(wire: wire::PullPart) -> Self {
        Self { id: wire.id, in_kind: wire.in_kind }
    }
}

impl From<&Ask> for WireAsk {
    fn from(ask: &Ask) -> Self {
        match ask {
            Ask::Hello => Self::Hello(wire::Hello {}),
            Ask::Walk { epoch, nodes } => Self::Walk(wire::Walk {
                epoch: epoch.map(|epoch| epoch.0),
                nodes: nodes.iter().map(Into::into).collect(),
            }),
            Ask::Fetch { epoch, buckets } => Self::Fetch(wire::Fetch {
                epoch: epoch.map(|epoch| epoch.0),
                buckets: buckets.iter().map(Into::into).collect(),
            }),
            Ask::Bye => Self::Bye(wire::Bye {}),
        }
    }
}

impl TryFrom<WireAsk> for Ask {
    type Error = Invalid;

    fn try_from(wire: WireAsk) -> Result<Self, Invalid> {
        match wire {
            WireAsk::Hello(wire::Hello {}) => Ok(Self::Hello),
            WireAsk::Walk(wire::Walk { epoch, nodes }) => {
                some_at_most("walk.nodes", nodes.len(), POSITIONS_MAX)?;
                let nodes = list("walk.nodes", nodes, POSITIONS_MAX)?;
                Ok(Self::Walk { epoch: epoch.map(Epoch), nodes })
            }
            WireAsk::Fetch(wire::Fetch { epoch, buckets }) => {
                some_at_most("fetch.buckets", buckets.len(), POSITIONS_MAX)?;
                let buckets: Vec<FetchAsk> = list("fetch.buckets", buckets, POSITIONS_MAX)?;
                let keys: usize = buckets.iter().map(|bucket| bucket.keys.len()).sum();
                if keys > KEYS_MAX {
                    let problem = format!("take at most {KEYS_MAX} keys together, got {keys}");
                    return Err(Invalid::new("fetch.buckets", problem));
                }
                Ok(Self::Fetch { epoch: epoch.map(Epoch), buckets })
            }
            WireAsk::Bye(wire::Bye {}) => Ok(Self::Bye),
        }
    }
}

impl From<&WalkAsk> for wire::WalkAsk {
    fn from(ask: &WalkAsk) -> Self {
        Self {
            position: Some((&ask.position).into()),
            digests: ask.mine.as_ref().map(|mine| bytes_of(mine.as_bytes())).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::WalkAsk> for WalkAsk {
    type Error = Invalid;

    fn try_from(wire: wire::WalkAsk) -> Result<Self, Invalid> {
        let mine = match wire.digests.as_ref() {
            [] => None,
            bytes => Some(Digests::parse(bytes).ok_or_else(|| {
                let widest = FANOUT * Digests::WIDTH_MAX;
                let length = bytes.len();
                Invalid::new(
                    "digests",
                    format!("take {FANOUT} of equal width, {FANOUT} to {widest} bytes, got {length}"),
                )
            })?),
        };
        Ok(Self { position: required("position", wire.position)?, mine })
    }
}

impl From<&FetchAsk> for wire::FetchAsk {
    fn from(ask: &FetchAsk) -> Self {
        let hashes: Vec<u8> = ask.keys.iter().flat_map(|key| key.0.0).collect();
        Self {
            position: Some((&ask.position).into()),
            key_hashes: hashes.into(),
            known: bytes_of(ask.known.as_bytes()),
            // At most 32.
            known_width: ask.known.width() as u32,
        }
    }
}

impl TryFrom<wire::FetchAsk> for FetchAsk {
    type Error = Invalid;

    fn try_from(wire: wire::FetchAsk) -> Result<Self, Invalid> {
        let position = required("position", wire.position)?;
        let (hashes, rest) = wire.key_hashes.as_chunks::<32>();
        if !rest.is_empty() {
            let problem = format!("key hashes are 32 bytes each, got {} bytes", wire.key_hashes.len());
            return Err(Invalid::new("key_hashes", problem));
        }
        if let Some(index) = hashes.windows(2).position(|pair| pair[0] >= pair[1]) {
            let field = format!("key_hashes[{}]", index + 1);
            return Err(Invalid::new(field, "does not lie after the one before it"));
        }
        let width = wire.known_width;
        let known = usize::try_from(width).ok().and_then(|width| Known::parse(width, &wire.known));
        let known = known.ok_or_else(|| {
            let length = wire.known.len();
            let problem = format!(
                "takes at most {BUCKET_ENTRIES_MAX} digests of known_width bytes, 1 to {}, got {length} bytes for a width of {width}",
                Digests::WIDTH_MAX
            );
            Invalid::new("known", problem)
        })?;
        Ok(Self { position, known, keys: hashes.iter().map(|hash| KeyHash(Digest(*hash))).collect() })
    }
}
