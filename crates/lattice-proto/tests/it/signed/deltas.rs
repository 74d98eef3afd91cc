//! Deltas, as they are split, signed by gossip and heard.

use lattice_core::model::{Content, Entry};
use lattice_proto::codec::{self, DELTA_BYTES_MAX, DeltaError};

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

#[test]
fn deltas_are_split_at_their_bounds() {
    let many = vec![tombstone(); 1_025];
    let deltas = codec::split_deltas("lattice", &many, "");
    assert_eq!((deltas.messages.len(), deltas.left_out), (2, 0));

    let of_size = |bytes: usize| Entry { content: Content::Value(vec![7; bytes].into()), ..entry() };
    let deltas =
        codec::split_deltas("lattice", &[of_size(200 << 10), of_size(1 << 20), of_size(100 << 10)], "");
    assert_eq!((deltas.messages.len(), deltas.left_out), (2, 1), "one value fits into no delta");
    for message in deltas.messages {
        assert!(codec::decode_delta(message.into(), &asker(), "lattice").is_ok());
    }
    assert!(codec::split_deltas("lattice", &[], "").messages.is_empty());
}
