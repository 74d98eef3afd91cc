//! Valid bytes of each message between nodes, and of backups, with accidents: whatever comes of it is refused or understood. What is
//! understood is a value like any other, with one encoding of its own.

use bytes::Bytes;
use lattice_core::exchange::{Request, Response};
use lattice_core::model::{Content, Entry};
use lattice_core::signed::Signed;
use lattice_proto::codec::{BackupError, BackupHeader, BackupItem, BackupReader, BackupWriter};
use lattice_proto::{codec, peer};
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;

use crate::fixtures;
use crate::strategies as any_of;

/// One thing that happens to bytes.
#[derive(Clone, Debug)]
enum Accident {
    Overwritten(Index, u8),
    Flipped(Index, u8),
    Cut(Index),
    LeftOut(Index, Index),
    Repeated(Index, Index),
    Inserted(Index, Vec<u8>),
}

fn accident() -> impl Strategy<Value = Accident> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, to)| Accident::Overwritten(at, to)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Accident::Flipped(at, bit)),
        at().prop_map(Accident::Cut),
        (at(), at()).prop_map(|(from, to)| Accident::LeftOut(from, to)),
        (at(), at()).prop_map(|(from, to)| Accident::Repeated(from, to)),
        (at(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Accident::Inserted(at, bytes)),
    ]
}

fn accidents() -> impl Strategy<Value = Vec<Accident>> {
    prop::collection::vec(accident(), 1..4)
}

fn after(accidents: &[Accident], mut bytes: Vec<u8>) -> Bytes {
    for accident in accidents {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        let between = |a: &Index, b: &Index| {
            let (a, b) = (a.index(length), b.index(length));
            a.min(b)..a.max(b)
        };
        match accident {
            Accident::Overwritten(at, to) => bytes[at.index(length)] = *to,
            Accident::Flipped(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Accident::Cut(at) => bytes.truncate(at.index(length)),
            Accident::LeftOut(from, to) => drop(bytes.drain(between(from, to))),
            Accident::Repeated(from, to) => {
                let again = bytes[between(from, to)].to_vec();
                bytes.extend(again);
            }
            Accident::Inserted(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes.into()
}

fn backup(entries: &[Entry]) -> Vec<u8> {
    let header = BackupHeader {
        cluster: "lattice".to_owned(),
        node: fixtures::server(),
        incarnation: fixtures::SERVER_INCARNATION,
        time: fixtures::announcement().time,
        about: 7,
    };
    let (mut writer, first) = BackupWriter::begin(&header);
    let mut file = first.to_vec();
    entries.chunks(16).for_each(|chunk| file.extend_from_slice(&writer.chunk(chunk)));
    file.extend_from_slice(&writer.end());
    file
}

/// All entries of a backup that comes in pieces.
fn read_backup(file: &[u8], piece: usize) -> Result<Vec<Entry>, BackupError> {
    let mut reader = BackupReader::default();
    let mut read = Vec::new();
    for piece in file.chunks(piece) {
        reader.push(piece.to_vec());
        while let Some(item) = reader.next_item()? {
            match item {
                BackupItem::Entries(entries) => read.extend(entries),
                BackupItem::Header(_) | BackupItem::End { .. } => {}
            }
        }
    }
    reader.finish().map(|()| read)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_request_is_refused_or_another_request(request in any_of::request(), accidents in accidents()) {
        let bytes = after(&accidents, peer::v1::Request::from(&request).encode_to_vec());
        if let Ok(read) = codec::parse_request(bytes) {
            prop_assert_eq!(Request::try_from(peer::v1::Request::from(&read)), Ok(read.clone()));
        }
    }

    #[test]
    fn a_damaged_response_is_refused_or_another_response(
        response in any_of::response(), accidents in accidents(),
    ) {
        let bytes = after(&accidents, peer::v1::Response::from(&response).encode_to_vec());
        if let Ok(read) = codec::parse_response(bytes) {
            prop_assert_eq!(Response::try_from(peer::v1::Response::from(&read)), Ok(read.clone()));
        }
    }

    #[test]
    fn a_damaged_envelope_is_not_believed(
        request in any_of::request(), response in any_of::response(), accidents in accidents(),
    ) {
        let asked = codec::sign_request(&fixtures::request_header(), &request, &fixtures::asker_key());
        let answered =
            codec::sign_response(&fixtures::response_header(&asked), &response, &fixtures::server_key());
        let contexts = [lattice_core::signed::Context::Request, lattice_core::signed::Context::Response];
        let signers = [fixtures::asker(), fixtures::server()];
        for ((signed, context), signer) in [asked, answered].into_iter().zip(contexts).zip(signers) {
            let body = after(&accidents, signed.body.to_vec());
            let damaged = Signed { body: body.clone(), ..signed.clone() };
            let _ = codec::read_header(&damaged);
            prop_assert_eq!(damaged.verify(context, &signer).is_ok(), body == signed.body);
        }
    }

    #[test]
    fn a_damaged_statement_is_not_believed(
        announcement in any_of::announcement(), seal in any_of::seal(), accidents in accidents(),
    ) {
        let body = after(&accidents, announcement.signed.body.to_vec());
        let damaged = Signed { body: body.clone(), ..announcement.signed.clone() };
        prop_assert_eq!(codec::open_announcement(&damaged).is_ok(), body == announcement.signed.body);
        let body = after(&accidents, seal.signed.body.to_vec());
        let damaged = Signed { body: body.clone(), ..seal.signed.clone() };
        prop_assert_eq!(codec::open_seal(&damaged).is_ok(), body == seal.signed.body);
    }

    #[test]
    fn a_damaged_delta_is_refused_or_of_its_writer(
        entries in prop::collection::vec(any_of::entry(), 1..6), accidents in accidents(),
    ) {
        let writer = fixtures::asker();
        let mut entries = entries;
        entries.iter_mut().for_each(|entry| entry.version.writer = writer);
        for message in codec::split_deltas("lattice", &entries, "") {
            if let Ok(delta) = codec::decode_delta(after(&accidents, message), &writer, "lattice") {
                prop_assert!(delta.entries.iter().all(|entry| entry.version.writer == writer));
            }
        }
    }

    #[test]
    fn a_damaged_backup_is_refused(
        entries in prop::collection::vec(any_of::entry(), 0..40), accidents in accidents(), piece in 1..300_usize,
    ) {
        let mut entries = entries;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
        entries.retain(|entry| entry.expires.is_some() || !matches!(entry.content, Content::Dropped { .. }));
        let file = backup(&entries);
        prop_assert_eq!(read_backup(&file, piece), Ok(entries));
        let damaged = after(&accidents, file.clone());
        prop_assert_eq!(read_backup(&damaged, piece).is_ok(), damaged == file);
    }

    #[test]
    fn a_damaged_signed_message_is_refused_or_another(signed in any_of::signed(), accidents in accidents()) {
        let bytes = after(&accidents, codec::encode_signed(&signed).to_vec());
        if let Ok(read) = codec::decode_signed(bytes) {
            prop_assert_eq!(codec::decode_signed(codec::encode_signed(&read).into()), Ok(read.clone()));
        }
    }
}
