//! Proofs as they travel: whole, small, and strict.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use lattice_core::model::{
    Content, Digest, Entry, EntryHead, Epoch, HeadContent, Hlc, Incarnation, Key, KeyHash, NodeId, Version,
};
use lattice_core::proof::{SealedProof, Untrue};
use lattice_core::seal::Seal;
use lattice_core::time::WallTime;
use lattice_core::tree::{BUCKET_ENTRIES_MAX, FANOUT, Node, Position, Proof, Summary, root_of};
use lattice_proto::codec::sign_seal;
use lattice_proto::kv::v1 as kv;
use prost::Message as _;

/// The entries of a tree at which a proof's size is promised.
const ENTRIES: u64 = 1_000_000;

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

pub(crate) fn signer() -> NodeId {
    NodeId(signing_key().verifying_key().to_bytes())
}

fn entry(name: &str) -> Entry {
    Entry {
        key: Key::try_from(name).unwrap(),
        version: Version { hlc: Hlc(1_700_000_000_000 << 16 | 7), writer: NodeId([7; 32]) },
        expires: Some(WallTime(1_800_000_000_000)),
        content: Content::Value(Bytes::from_static(b"value")),
    }
}

/// The head of another entry in the same bucket: `rank` orders them.
fn neighbour(like: &KeyHash, depth: usize, rank: u8) -> EntryHead {
    let mut hash = [rank; 32];
    let whole = depth / 2;
    hash[..whole].copy_from_slice(&like.0.as_bytes()[..whole]);
    if depth % 2 == 1 {
        hash[whole] = like.0.as_bytes()[whole] & 0xf0 | rank & 0x0f;
    }
    EntryHead {
        key_hash: KeyHash(Digest(hash)),
        version: Version { hlc: Hlc(u64::from(rank)), writer: NodeId([rank; 32]) },
        expires: None,
        content: HeadContent::Value(Digest::of(&[&[rank]])),
    }
}

/// A tree of a million entries, as far as the way to one key goes: a bucket of `others` besides the key's own entry,
/// `depth` levels down, under inner nodes with siblings made up.
pub(crate) fn proved(name: &str, present: bool, depth: usize, others: usize) -> SealedProof {
    let entry = entry(name);
    let hash = entry.key.hash();
    let mut heads: Vec<EntryHead> =
        (0..others).map(|rank| neighbour(&hash, depth, (rank * 255 / others.max(1)) as u8)).collect();
    heads.retain(|head| head.key_hash != hash);
    heads.extend(present.then(|| entry.head()));
    heads.sort_by_key(|head| head.key_hash);
    heads.dedup_by_key(|head| head.key_hash);
    assert!(heads.len() <= BUCKET_ENTRIES_MAX);
    let mut path = vec![Node::bucket(&Position::towards(&hash, depth), heads).unwrap()];
    for level in (0..depth).rev() {
        let below = path.last().unwrap().summary();
        let children = (0..FANOUT).map(|child| match child == usize::from(hash.nibble(level)) {
            true => below,
            false => Summary {
                digest: Digest::of(&[&[level as u8, child as u8]]),
                entries: ENTRIES / 16_u64.pow(level as u32 + 1),
                tombstones: 1_000,
            },
        });
        path.push(Node::inner(children.collect()).unwrap());
    }
    path.reverse();
    let proof = Proof::build(&path, &hash).unwrap();
    let seal = Seal {
        cluster: "lattice".to_owned(),
        node: signer(),
        incarnation: Incarnation([5; 16]),
        epoch: Epoch(1_700_000_000),
        root: root_of(&path[0].summary()),
    };
    let seal = sign_seal(&seal, &signing_key());
    SealedProof { key: entry.key.clone(), seal, entry: present.then_some(entry), proof }
}

/// The bytes of a proof without value and seal.
fn size(proof: &SealedProof) -> usize {
    let mut wire = kv::ProveResponse::from(proof);
    wire.seal = None;
    if let Some(entry) = &mut wire.entry {
        entry.content = None;
    }
    wire.encoded_len()
}

#[test]
fn at_a_million_keys_a_proof_of_presence_takes_a_kibibyte_and_of_absence_one_and_a_half() {
    // Fifteen entries a bucket on average, four levels down; of 65,536 places a few hang one deeper.
    let (mut largest, mut largest_absent) = (0, 0);
    for depth in [4, 5] {
        for others in 0..BUCKET_ENTRIES_MAX {
            for name in ["apple", "pear", "a key of usual length", "fig", "lemon"] {
                let present = proved(name, true, depth, others);
                assert_eq!(present.verify(&signer(), Some("lattice")), Ok(()));
                largest = largest.max(size(&present));
                let absent = proved(name, false, depth, others);
                assert_eq!(absent.verify(&signer(), None), Ok(()));
                largest_absent = largest_absent.max(size(&absent));
            }
        }
    }
    assert!(largest <= 1_024, "{largest} bytes");
    assert!(largest_absent <= 1_536, "{largest_absent} bytes");
    println!("inclusion: at most {largest} bytes; absence: at most {largest_absent} bytes");
}

#[test]
fn proofs_travel_unchanged() {
    for (present, depth, others) in
        [(true, 4, 15), (true, 0, 0), (false, 5, 31), (false, 4, 0), (false, 4, 1)]
    {
        let proof = proved("apple", present, depth, others);
        let wire = kv::ProveResponse::from(&proof).encode_to_vec();
        let read = SealedProof::try_from(kv::ProveResponse::decode(&*wire).unwrap()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(&signer(), Some("lattice")), Ok(()));
    }
}

#[test]
fn a_proof_of_another_shape_is_refused_by_field() {
    type Change = fn(&mut kv::ProveResponse);
    let cases: [(&str, Change); 12] = [
        ("key", |wire| wire.key = Bytes::new()),
        ("seal", |wire| wire.seal = None),
        ("seal", |wire| wire.seal.as_mut().unwrap().body = vec![0xff; 40].into()),
        ("proof", |wire| wire.proof = None),
        ("proof.entries", |wire| wire.proof.as_mut().unwrap().entries.clear()),
        ("proof.tombstones", |wire| wire.proof.as_mut().unwrap().tombstones.push(0)),
        ("proof.entries", |wire| {
            let proof = wire.proof.as_mut().unwrap();
            (proof.entries, proof.tombstones) = (vec![40; 66], vec![0; 66]);
        }),
        ("proof.siblings", |wire| {
            let proof = wire.proof.as_mut().unwrap();
            proof.siblings = proof.siblings.slice(32..);
        }),
        ("proof.siblings", |wire| {
            let proof = wire.proof.as_mut().unwrap();
            proof.siblings = [&proof.siblings[..], &[0; 32]].concat().into();
        }),
        ("proof.bucket_siblings", |wire| {
            wire.proof.as_mut().unwrap().bucket_siblings = vec![0; 33].into();
        }),
        ("proof.neighbours", |wire| wire.proof.as_mut().unwrap().neighbours = vec![0; 64].into()),
        ("entry.version", |wire| wire.entry.as_mut().unwrap().version = None),
    ];
    for (field, change) in cases {
        let mut wire = kv::ProveResponse::from(&proved("apple", true, 4, 15));
        change(&mut wire);
        let invalid = SealedProof::try_from(wire).unwrap_err();
        assert_eq!(invalid.field, field, "{invalid}");
    }
    let mut absent = kv::ProveResponse::from(&proved("apple", false, 4, 15));
    absent.proof.as_mut().unwrap().neighbours = vec![0; 96].into();
    assert_eq!(SealedProof::try_from(absent).unwrap_err().field, "proof.neighbours");
}

#[test]
fn a_proof_says_nothing_of_another_entry_key_signer_or_cluster() {
    let proof = proved("apple", true, 4, 15);
    let verify = |change: fn(&mut SealedProof)| {
        let mut changed = proof.clone();
        change(&mut changed);
        changed.verify(&signer(), Some("lattice"))
    };
    assert_eq!(verify(|_| {}), Ok(()));
    let value = |proof: &mut SealedProof| {
        proof.entry.as_mut().unwrap().content = Content::Value(Bytes::from_static(b"other"));
    };
    assert_eq!(verify(value), Err(Untrue::Entry));
    assert!(verify(|proof| proof.key = Key::try_from("pear").unwrap()).is_err());
    assert_eq!(verify(|proof| proof.entry = None), Err(Untrue::Entry));
    assert!(matches!(verify(|proof| proof.seal.signed.signature[3] ^= 1), Err(Untrue::Signature(_))));
    assert!(matches!(proof.verify(&NodeId([1; 32]), None), Err(Untrue::Signer { .. })));
    assert!(matches!(proof.verify(&signer(), Some("other")), Err(Untrue::Cluster { .. })));
    assert_eq!(proof.answers(&proof.key, Some(proof.seal.seal.epoch)), Ok(()));
    let other = proof.answers(&Key::try_from("pear").unwrap(), None).unwrap_err();
    assert!(matches!(other, Untrue::Key { .. }), "{other}");
    let other = proof.answers(&proof.key, Some(Epoch(7))).unwrap_err();
    assert_eq!(other.to_string(), "proof is of epoch 1700000000, not 7");
}
