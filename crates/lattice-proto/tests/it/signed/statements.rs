//! Announcements, seals, and signed messages as bytes.

use std::num::NonZeroU32;

use lattice_core::model::{Epoch, EpochLength};
use lattice_core::seal::Run;
use lattice_core::signed::{Announcement, Context, Signed};
use lattice_core::time::WallTime;
use lattice_core::tree::Summary;
use lattice_proto::codec::{self, OpenError};
use lattice_proto::convert::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, CLUSTER_BYTES_MAX, NAME_BYTES_MAX};

use super::{malformed, mutations, signed};
use crate::fixtures::*;

#[test]
fn a_statement_with_any_bit_changed_is_not_opened() {
    assert_eq!(codec::open_announcement(&signed_announcement().signed), Ok(signed_announcement()));
    for changed in mutations(&signed_announcement().signed) {
        assert!(codec::open_announcement(&changed).is_err());
    }
    assert_eq!(codec::open_seal(&signed_seal().signed), Ok(signed_seal()));
    for changed in mutations(&signed_seal().signed) {
        assert!(codec::open_seal(&changed).is_err());
    }
}

#[test]
fn a_statement_says_why_it_is_not_opened() {
    let too_large = OpenError::TooLarge { bytes: 16_385, max: 16_384 };
    assert_eq!(codec::open_announcement(&signed(vec![0xff; 16_385])), Err(too_large));
    let too_large = OpenError::TooLarge { bytes: 1_025, max: 1_024 };
    assert_eq!(codec::open_seal(&signed(vec![0xff; 1_025])), Err(too_large.clone()));
    assert_eq!(too_large.to_string(), "1025 bytes are too many: it takes at most 1024");

    assert!(malformed(codec::open_seal(&signed(vec![0xff])).unwrap_err()).contains("Protobuf"));
    let empty = malformed(codec::open_announcement(&signed(Vec::new())).unwrap_err());
    assert_eq!(empty, "node: a node is 32 bytes, got 0");

    let mut unsigned = signed_seal().signed;
    unsigned.signature = [0; 64];
    assert_eq!(codec::open_seal(&unsigned), Err(OpenError::Signature));
    assert_eq!(codec::decode_seal(&unsigned).unwrap().seal, seal(), "decoding looks at no signature");
}

#[test]
fn a_signature_of_another_context_or_key_is_worthless() {
    let body = signed_seal().signed.body;
    let as_announcement = Signed::sign(Context::Announcement, body.clone(), &server_key());
    assert_eq!(codec::open_seal(&as_announcement), Err(OpenError::Signature));
    let by_another = Signed::sign(Context::Seal, body, &asker_key());
    assert_eq!(codec::open_seal(&by_another), Err(OpenError::Signature));
}

#[test]
fn a_signed_message_survives_its_bytes() {
    let bytes = codec::encode_signed(&signed_seal().signed);
    assert_eq!(codec::decode_signed(bytes.into()), Ok(signed_seal().signed));
    let too_large = codec::decode_signed(vec![0; codec::SIGNED_BYTES_MAX + 1].into());
    assert!(matches!(too_large, Err(OpenError::TooLarge { .. })));
}

#[test]
fn the_greatest_announcement_fits_its_bound() {
    let root = Some(Summary { digest: summary().digest, entries: u64::MAX, tombstones: u64::MAX });
    let epochs = (0..64).map(|index| Epoch(u64::MAX - 63 + index));
    let greatest = Announcement {
        cluster: "c".repeat(CLUSTER_BYTES_MAX),
        sequence: u64::MAX,
        time: WallTime(u64::MAX),
        epoch_length: EpochLength(NonZeroU32::MAX),
        runs: epochs.map(|epoch| Run { from: epoch, to: epoch, root }).collect(),
        addresses: vec!["a".repeat(ADDRESS_BYTES_MAX); ADDRESSES_MAX],
        name: "n".repeat(NAME_BYTES_MAX),
        recovering: true,
        ..announcement()
    };
    let signed = codec::sign_announcement(&greatest, &asker_key());
    assert!(signed.signed.body.len() > codec::ANNOUNCEMENT_BYTES_MAX * 3 / 4, "the bound is not far off");
    assert_eq!(codec::open_announcement(&signed.signed), Ok(signed));
}
