//! Deltas, as they are split, signed by gossip and heard.

use lattice_core::model::{Content, Entry, Hlc, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX, Version};
use lattice_core::time::WallTime;
use lattice_proto::codec::{self, DELTA_BYTES_MAX, DELTA_BYTES_TARGET, DeltaError};
use lattice_proto::convert::{CLUSTER_BYTES_MAX, TRACEPARENT_BYTES_MAX};

use crate::fixtures::*;

#[test]
fn a_delta_says_why_it_is_dropped() {
    let decode = |bytes: Vec<u8>| codec::decode_delta(bytes.into(), &asker(), "lattice");
    let valid = codec::encode_delta("lattice", &[entry(), tombstone()], "00-ab");
    let delta = decode(valid).unwrap();
    assert_eq!((delta.entries, delta.traceparent.as_str()), (vec![entry(), tombstone()], "00-ab"));

    let bytes = DELTA_BYTES_MAX + 1;
    assert_eq!(decode(vec![0; bytes]), Err(DeltaError::TooLarge { bytes }));
    assert!(matches!(decode(vec![0xff]), Err(DeltaError::Malformed(_))));
    assert_eq!(
        decode(codec::encode_delta("other", &[entry()], "")),
        Err(DeltaError::Cluster { expected: "lattice".into(), got: "other".into() })
    );
    let mut foreign = entry();
    foreign.version.writer = server();
    let error = decode(codec::encode_delta("lattice", &[entry(), foreign], "")).unwrap_err();
    assert_eq!(error, DeltaError::Writer { index: 1 });
    assert_eq!(error.to_string(), "entries[1].version.writer: is not the node that signed the delta");
    let error = decode(codec::encode_delta("lattice", &vec![entry(); 1_025], "")).unwrap_err();
    assert_eq!(error.to_string(), "delta is malformed: entries: takes at most 1024 in all, got 1025");
}

fn of_size(bytes: usize) -> Entry {
    Entry { content: Content::Value(vec![7; bytes].into()), ..entry() }
}

/// How many entries each delta carries, in order; every one is taken by whoever hears it.
fn split(entries: &[Entry]) -> Vec<usize> {
    let heard = |delta: Vec<u8>| codec::decode_delta(delta.into(), &asker(), "lattice").unwrap();
    codec::split_deltas("lattice", entries, "").map(|delta| heard(delta).entries.len()).collect()
}

#[test]
fn deltas_are_cut_at_their_target_and_at_their_count() {
    assert_eq!(split(&[]), Vec::<usize>::new());
    assert_eq!(split(&vec![tombstone(); 1_025]), [1_024, 1]);
    assert_eq!(split(&[of_size(100 << 10), of_size(100 << 10), of_size(100 << 10)]), [2, 1]);
    let full =
        DELTA_BYTES_TARGET - codec::encode_delta("lattice", &[of_size(200 << 10)], "").len() + (200 << 10);
    assert_eq!(split(&[of_size(full), tombstone()]), [1, 1]);
    let half = of_size((full - 200) / 2);
    assert_eq!(split(&[half.clone(), half.clone(), half]), [2, 1]);
}

#[test]
fn an_entry_above_the_target_travels_alone() {
    let large = of_size(300 << 10);
    assert_eq!(
        split(&[tombstone(), large.clone(), tombstone(), tombstone(), large.clone(), large]),
        [1, 1, 2, 1, 1]
    );
}

#[test]
fn every_legal_entry_fits_into_a_delta() {
    let largest = Entry {
        key: Key::try_from("k".repeat(KEY_BYTES_MAX).as_str()).unwrap(),
        version: Version { hlc: Hlc(u64::MAX), writer: asker() },
        expires: Some(WallTime(u64::MAX)),
        content: Content::Value(vec![7; VALUE_BYTES_MAX].into()),
    };
    let (cluster, trace) = ("c".repeat(CLUSTER_BYTES_MAX), "t".repeat(TRACEPARENT_BYTES_MAX));
    let entries = [largest];
    let deltas: Vec<Vec<u8>> = codec::split_deltas(&cluster, &entries, &trace).collect();
    assert_eq!(deltas.len(), 1);
    assert!(deltas[0].len() <= DELTA_BYTES_MAX, "{} bytes", deltas[0].len());
    let delta = codec::decode_delta(deltas[0].clone().into(), &asker(), &cluster).unwrap();
    assert_eq!((delta.entries.as_slice(), delta.traceparent), (entries.as_slice(), trace));

    let too_long = "t".repeat(TRACEPARENT_BYTES_MAX + 1);
    let without = codec::split_deltas("lattice", &entries, &too_long).next().unwrap();
    assert_eq!(codec::decode_delta(without.into(), &asker(), "lattice").unwrap().traceparent, "");
}
