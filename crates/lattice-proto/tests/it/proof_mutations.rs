//! Valid proofs, altered in ten thousand ways: not one of them is believed as the answer to what was asked.

use std::collections::BTreeMap;

use bytes::Bytes;
use lattice_core::proof::{SealedProof, Untrue};
use lattice_proto::kv::v1 as kv;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::proofs::{proved, signer};

/// Mutations that change what a proof says.
const MUTATIONS: usize = 10_000;
const SEED: u64 = 71;

/// Proofs of presence and of absence, in trees of several depths, in full buckets and empty ones.
fn valid() -> Vec<SealedProof> {
    let shapes = [(true, 4, 15), (true, 0, 0), (true, 5, 31), (true, 1, 3), (false, 4, 15), (false, 5, 31)];
    let few = [(false, 4, 0), (false, 0, 1), (false, 3, 2)];
    let of = |name| move |(present, depth, others)| proved(name, present, depth, others);
    let apples = shapes.into_iter().chain(few).map(of("apple"));
    apples.chain(shapes.into_iter().chain(few).map(of("pear"))).collect()
}

/// Some place in bytes that has `length` bytes after it.
fn place(random: &mut StdRng, bytes: &[u8], length: usize) -> usize {
    random.random_range(0..=bytes.len().saturating_sub(length))
}

/// What an attacker without the node's key may do to the bytes.
fn altered(random: &mut StdRng, original: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let length = random.random_range(1..=32_usize).min(bytes.len());
    let at = place(random, &bytes, length);
    match random.random_range(0..7) {
        0 | 1 => bytes[at] ^= 1 << random.random_range(0..8),
        2 => bytes[at] = random.random(),
        3 => drop(bytes.drain(at..at + length)),
        4 => {
            let more: Vec<u8> = (0..length).map(|_| random.random()).collect();
            drop(bytes.splice(at..at, more));
        }
        5 => {
            let to = place(random, &bytes, length);
            bytes.copy_within(at..at + length, to);
        }
        _ => {
            let length = length.min(other.len());
            let from = place(random, other, length);
            let at = place(random, &bytes, length);
            bytes[at..at + length].copy_from_slice(&other[from..from + length]);
        }
    }
    bytes
}

/// Changes a number by a little.
fn nudge(random: &mut StdRng, number: &mut u64) {
    *number = number.wrapping_add_signed([-1, 1, 16][random.random_range(0..3)]);
}

/// Exchanges two pieces of `size` bytes.
fn exchange(random: &mut StdRng, bytes: &mut Bytes, size: usize) {
    let count = bytes.len() / size;
    if count > 1 {
        let (one, two) = (random.random_range(0..count), random.random_range(0..count));
        let mut changed = bytes.to_vec();
        for index in 0..size {
            changed.swap(one * size + index, two * size + index);
        }
        *bytes = changed.into();
    }
}

/// What somebody does who knows what the fields mean; parts of another valid proof are at hand.
fn rearranged(
    random: &mut StdRng,
    original: &kv::ProveResponse,
    other: &kv::ProveResponse,
) -> kv::ProveResponse {
    let mut wire = original.clone();
    let proof = wire.proof.get_or_insert_default();
    match random.random_range(0..12) {
        0 => wire.seal.clone_from(&other.seal),
        1 => wire.key.clone_from(&other.key),
        2 => wire.entry.clone_from(&other.entry),
        3 => wire.proof.clone_from(&other.proof),
        4 => wire.entry = None,
        5 => exchange(random, &mut proof.siblings, 32),
        6 => exchange(random, &mut proof.bucket_siblings, 32),
        7 => exchange(random, &mut proof.neighbours, 32),
        8 => proof.index = proof.index.wrapping_add([1, u32::MAX, 2][random.random_range(0..3)]),
        9 => {
            let level = random.random_range(0..proof.entries.len().max(1));
            proof.entries.get_mut(level).into_iter().for_each(|number| nudge(random, number));
        }
        10 => std::mem::swap(&mut proof.entries, &mut proof.tombstones),
        _ => {
            if let Some(version) = wire.entry.as_mut().and_then(|entry| entry.version.as_mut()) {
                nudge(random, &mut version.hlc);
            }
        }
    }
    wire
}

/// What became of bytes that are not a proof that was made.
fn refused(bytes: &[u8], original: &SealedProof) -> Option<&'static str> {
    let Ok(wire) = kv::ProveResponse::decode(bytes) else { return Some("are no message") };
    let Ok(read) = SealedProof::try_from(wire) else { return Some("have a field that cannot be") };
    if read == *original {
        return None;
    }
    let verdict = read.verify(&signer(), Some("lattice")).and_then(|()| read.answers(&original.key, None));
    Some(match verdict {
        Ok(()) => panic!("believed: {read:?}\ninstead of {original:?}"),
        Err(Untrue::Signer { .. }) => "name another signer",
        Err(Untrue::Cluster { .. }) => "name another cluster",
        Err(Untrue::Signature(_)) => "have a seal that was not signed",
        Err(Untrue::Proof(_)) => "do not lead to the root",
        Err(Untrue::Key { .. }) => "are true of another key",
        Err(Untrue::Epoch { .. }) => "stand on another seal",
        Err(Untrue::Entry) => "prove something else than the entry",
    })
}

#[test]
fn none_of_ten_thousand_mutations_of_valid_proofs_verifies() {
    let valid = valid();
    let wires: Vec<kv::ProveResponse> = valid.iter().map(kv::ProveResponse::from).collect();
    for proof in &valid {
        assert_eq!(proof.verify(&signer(), Some("lattice")), Ok(()));
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut tally, mut mutations, mut same) = (BTreeMap::<&str, usize>::new(), 0, 0);
    while mutations < MUTATIONS {
        let (one, two) = (random.random_range(0..valid.len()), random.random_range(0..valid.len()));
        let bytes = match random.random_bool(0.5) {
            true => altered(&mut random, &wires[one].encode_to_vec(), &wires[two].encode_to_vec()),
            false => rearranged(&mut random, &wires[one], &wires[two]).encode_to_vec(),
        };
        match refused(&bytes, &valid[one]) {
            Some(why) => {
                *tally.entry(why).or_default() += 1;
                mutations += 1;
            }
            // Only the encoding is another, or nothing is.
            None => same += 1,
        }
    }
    println!("{mutations} mutations of {} proofs, seed {SEED}: none verifies; of these", valid.len());
    for (why, count) in &tally {
        println!("{count:>6}  {why}");
    }
    println!("{same:>6}  more changed nothing that is said");
    // Each line of defence had something to do.
    assert_eq!(tally.len(), 7, "{tally:?}");
}
