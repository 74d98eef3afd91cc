//! What is encoded is decoded to the same, for any valid value.

use std::num::NonZeroU32;

use bytes::Bytes;
use lattice_core::exchange::{Request, Response};
use lattice_core::model::EpochLength;
use lattice_core::tree::Chain;
use lattice_proto::codec::{self, DELTA_BYTES_TARGET};
use lattice_proto::convert::{self, Seals};
use lattice_proto::{peer, store, types};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::fixtures;
use crate::strategies as any_of;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn version(version in any_of::version()) {
        prop_assert_eq!(codec::decode_version(&codec::encode_version(&version)), Ok(version));
    }

    #[test]
    fn entry(entry in any_of::entry()) {
        let bytes = codec::encode_entry(&entry);
        prop_assert_eq!(codec::entry_bytes(&entry), bytes.len());
        prop_assert_eq!(codec::decode_entry(&bytes), Ok(entry));
    }

    #[test]
    fn entry_head(head in any_of::head()) {
        prop_assert_eq!(codec::decode_head(&codec::encode_head(&head)), Ok(head));
    }

    #[test]
    fn summary(summary in any_of::summary()) {
        prop_assert_eq!(codec::decode_summary(&codec::encode_summary(&summary)), Ok(summary));
    }

    #[test]
    fn position(position in any_of::position()) {
        prop_assert_eq!(codec::decode_position(&codec::encode_position(&position)), Ok(position));
    }

    #[test]
    fn run(run in any_of::run()) {
        prop_assert_eq!(codec::decode_run(&codec::encode_run(&run)), Ok(run));
    }

    #[test]
    fn runs(runs in any_of::runs()) {
        let wire = runs.iter().map(Into::into).collect();
        prop_assert_eq!(convert::runs("runs", wire), Ok(runs));
    }

    #[test]
    fn signed(signed in any_of::signed()) {
        prop_assert_eq!(codec::decode_signed(codec::encode_signed(&signed).into()), Ok(signed));
    }

    #[test]
    fn chain(chain in any_of::chain()) {
        prop_assert_eq!(Chain::try_from(peer::v1::Chain::from(&chain)), Ok(chain));
    }

    #[test]
    fn seal(seal in any_of::seal()) {
        prop_assert_eq!(codec::open_seal(&seal.signed), Ok(seal.clone()));
        prop_assert_eq!(types::v1::Signed::from(&seal).try_into(), Ok(seal));
    }

    #[test]
    fn announcement(announcement in any_of::announcement()) {
        prop_assert_eq!(codec::open_announcement(&announcement.signed), Ok(announcement.clone()));
        prop_assert_eq!(types::v1::Signed::from(&announcement).try_into(), Ok(announcement));
    }

    #[test]
    fn request(request in any_of::request()) {
        prop_assert_eq!(Request::try_from(peer::v1::Request::from(&request)), Ok(request.clone()));
        let header = fixtures::request_header();
        let signed = codec::sign_request(&header, &request, &fixtures::asker_key());
        let (read, payload) = codec::read_header(&signed).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(codec::parse_request(payload), Ok(request));
    }

    #[test]
    fn response(response in any_of::response()) {
        prop_assert_eq!(Response::try_from(peer::v1::Response::from(&response)), Ok(response.clone()));
        let hello = fixtures::request(lattice_core::exchange::Ask::Hello);
        let asked = codec::sign_request(&fixtures::request_header(), &hello, &fixtures::asker_key());
        let header = fixtures::response_header(&asked);
        let signed = codec::sign_response(&header, &response, &fixtures::server_key());
        let (read, payload) = codec::read_header(&signed).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(codec::parse_response(payload), Ok(response));
    }

    #[test]
    fn seals(runs in any_of::runs(), newest in option::of(any_of::seal()), size in any::<u64>()) {
        let seals = Seals {
            node: fixtures::server(),
            incarnation: fixtures::SERVER_INCARNATION,
            damage_generation: size / 2,
            runs,
            state_size: size,
            epoch_length: EpochLength(NonZeroU32::MIN),
            newest,
            halted: String::new(),
            recovering: size % 2 == 1,
            damaged: size / 3,
        };
        prop_assert_eq!(store::v1::SealsResponse::from(&seals).try_into(), Ok(seals));
    }

    #[test]
    fn deltas_carry_every_entry_once_and_in_order(entries in vec(any_of::entry(), 0..=40)) {
        let writer = fixtures::asker();
        let mut entries = entries;
        entries.iter_mut().for_each(|entry| entry.version.writer = writer);
        let mut arrived = Vec::new();
        for message in codec::split_deltas("lattice", &entries, "") {
            prop_assert!(message.len() <= DELTA_BYTES_TARGET);
            arrived.extend(codec::decode_delta(message.into(), &writer, "lattice").unwrap().entries);
        }
        prop_assert_eq!(arrived, entries);
    }

    /// Whatever the bytes, they are refused or understood; nothing panics.
    #[test]
    fn no_bytes_break_a_parser(bytes in vec(any::<u8>(), 0..=200)) {
        let bytes = Bytes::from(bytes);
        let _ = codec::decode_entry(&bytes);
        let _ = codec::decode_signed(bytes.clone());
        let _ = codec::parse_request(bytes.clone());
        let _ = codec::parse_response(bytes.clone());
        let _ = codec::decode_delta(bytes.clone(), &fixtures::asker(), "lattice");
        let signed = lattice_core::signed::Signed { body: bytes, signature: [0; 64] };
        let _ = codec::open_announcement(&signed);
        let _ = codec::open_seal(&signed);
        let _ = codec::read_header(&signed);
    }

    /// A single damaged byte in valid bytes, the likelier accident.
    #[test]
    fn no_damage_breaks_a_parser(response in any_of::response(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = prost::Message::encode_to_vec(&peer::v1::Response::from(&response));
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let _ = codec::parse_response(bytes.into());
    }
}
