//! Proofs of `kv.v1`.
//!
//! The head of a proved entry does not travel: it follows from the entry beside the proof.

use lattice_core::model::{Digest, Entry, KeyHash};
use lattice_core::proof::SealedProof;
use lattice_core::signed::Signed;
use lattice_core::tree::{Chain, Evidence, Level, Neighbour, Position, Proof, SIBLINGS};

use super::field::{fixed, key, optional, required};
use super::types::bytes_of;
use super::{InField as _, Invalid};
use crate::codec::decode_seal;
use crate::kv::v1 as wire;

const DIGEST_BYTES: usize = 32;
/// More than any bucket's proof takes: two neighbours of 32 entries need 8.
const BUCKET_SIBLINGS_MAX: usize = 16;
const NEIGHBOURS_MAX: usize = 2;

impl From<&SealedProof> for wire::ProveResponse {
    fn from(sealed: &SealedProof) -> Self {
        Self {
            key: sealed.key.clone().into_bytes(),
            seal: Some((&sealed.seal.signed).into()),
            entry: sealed.entry.as_ref().map(Into::into),
            proof: Some((&sealed.proof).into()),
            unsealed: None,
        }
    }
}

impl TryFrom<wire::ProveResponse> for SealedProof {
    type Error = Invalid;

    fn try_from(wire: wire::ProveResponse) -> Result<Self, Invalid> {
        let signed: Signed = required("seal", wire.seal)?;
        let seal = decode_seal(&signed).map_err(|error| Invalid::new("seal", error))?;
        let entry: Option<Entry> = optional("entry", wire.entry)?;
        let proof = wire.proof.ok_or_else(|| Invalid::missing("proof"))?;
        let proof = proof_of(proof, entry.as_ref()).in_field("proof")?;
        Ok(Self { key: key("key", wire.key)?, seal, entry, proof })
    }
}

impl From<&Proof> for wire::Proof {
    fn from(proof: &Proof) -> Self {
        let levels = &proof.chain.levels;
        let counts =
            |level: fn(&Level) -> u64, bucket: u64| levels.iter().map(level).chain([bucket]).collect();
        let (index, bucket_siblings, neighbours) = match &proof.evidence {
            Evidence::Included { index, siblings, .. } => (*index, siblings, [].as_slice()),
            Evidence::Absent { neighbours, index, siblings } => (*index, siblings, neighbours.as_slice()),
        };
        let neighbours = neighbours
            .iter()
            .flat_map(|neighbour| [neighbour.key_hash.0, neighbour.entry])
            .collect::<Vec<_>>();
        Self {
            entries: counts(|level| level.entries, proof.entries),
            tombstones: counts(|level| level.tombstones, proof.tombstones),
            siblings: joined(levels.iter().flat_map(|level| &level.siblings)),
            index,
            bucket_siblings: joined(bucket_siblings),
            neighbours: joined(&neighbours),
        }
    }
}

fn joined<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> bytes::Bytes {
    bytes_of(&digests.into_iter().flat_map(|digest| digest.0).collect::<Vec<u8>>())
}

fn proof_of(wire: wire::Proof, entry: Option<&Entry>) -> Result<Proof, Invalid> {
    let wire::Proof { entries, tombstones, siblings, index, bucket_siblings, neighbours } = wire;
    let Some((bucket_entries, entries)) = entries.split_last() else {
        return Err(Invalid::new("entries", "takes the counts of the bucket at least, got none"));
    };
    if entries.len() > Position::DEPTH_MAX {
        let problem = format!("takes at most {} inner nodes, got {}", Position::DEPTH_MAX, entries.len());
        return Err(Invalid::new("entries", problem));
    }
    let (bucket_tombstones, tombstones) = match tombstones.split_last() {
        Some((bucket, rest)) if rest.len() == entries.len() => (bucket, rest),
        Some(_) | None => {
            let problem =
                format!("takes as many as entries, {}, got {}", entries.len() + 1, tombstones.len());
            return Err(Invalid::new("tombstones", problem));
        }
    };
    let siblings = digests("siblings", &siblings, entries.len() * SIBLINGS)?;
    if siblings.len() != entries.len() * SIBLINGS {
        let problem = format!("takes {} digests, got {}", entries.len() * SIBLINGS, siblings.len());
        return Err(Invalid::new("siblings", problem));
    }
    let levels = entries.iter().zip(tombstones).zip(siblings.chunks_exact(SIBLINGS));
    let levels = levels.map(|((entries, tombstones), siblings)| Level {
        entries: *entries,
        tombstones: *tombstones,
        siblings: siblings.try_into().expect("chunks of exactly so many"),
    });
    let levels = levels.collect();
    let siblings = digests("bucket_siblings", &bucket_siblings, BUCKET_SIBLINGS_MAX)?;
    let neighbours = digests("neighbours", &neighbours, 2 * NEIGHBOURS_MAX)?;
    let evidence = match entry {
        Some(_) if !neighbours.is_empty() => {
            return Err(Invalid::new("neighbours", "are for the proof that there is no entry"));
        }
        Some(entry) => Evidence::Included { head: entry.head(), index, siblings },
        None if neighbours.len() % 2 == 1 => {
            return Err(Invalid::new("neighbours", "takes 64 bytes for each"));
        }
        None => {
            let neighbours = neighbours.chunks_exact(2);
            let neighbours =
                neighbours.map(|pair| Neighbour { key_hash: KeyHash(pair[0]), entry: pair[1] }).collect();
            Evidence::Absent { neighbours, index, siblings }
        }
    };
    let (entries, tombstones) = (*bucket_entries, *bucket_tombstones);
    Ok(Proof { chain: Chain { levels }, entries, tombstones, evidence })
}

/// At most `max` digests, one after the other.
fn digests(field: &str, bytes: &[u8], max: usize) -> Result<Vec<Digest>, Invalid> {
    if bytes.len() > max * DIGEST_BYTES {
        let problem = format!("takes at most {max} digests, got {} bytes", bytes.len());
        return Err(Invalid::new(field, problem));
    }
    bytes.chunks(DIGEST_BYTES).map(|chunk| fixed(field, "a digest", chunk).map(Digest)).collect()
}
