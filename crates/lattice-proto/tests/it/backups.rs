//! Backup files: read back in any pieces, and no byte of them can change or go missing unnoticed.

use bytes::Bytes;
use lattice_core::model::{Content, Digest, Entry, Hlc, Incarnation, Key, NodeId, Version};
use lattice_core::time::WallTime;
use lattice_proto::codec::{BackupError, BackupHeader, BackupItem, BackupReader, BackupWriter};

fn header() -> BackupHeader {
    BackupHeader {
        cluster: "lattice".to_owned(),
        node: NodeId([7; 32]),
        incarnation: Incarnation([9; 16]),
        time: WallTime(1_700_000_000_000),
        about: 3,
    }
}

fn entry(name: &str, content: Content) -> Entry {
    Entry {
        key: Key::try_from(name).unwrap(),
        version: Version { hlc: Hlc(77), writer: NodeId([7; 32]) },
        expires: Some(WallTime(99)),
        content,
    }
}

fn chunks() -> Vec<Vec<Entry>> {
    vec![
        vec![entry("a", Content::Value(Bytes::from_static(b"1"))), entry("b", Content::Tombstone)],
        vec![entry("c", Content::Dropped { value_digest: Digest([1; 32]) })],
    ]
}

fn file(chunks: &[Vec<Entry>]) -> Vec<u8> {
    let (mut writer, first) = BackupWriter::begin(&header());
    let mut file = first.to_vec();
    chunks.iter().for_each(|chunk| file.extend_from_slice(&writer.chunk(chunk)));
    file.extend_from_slice(&writer.end());
    file
}

/// Everything in a file, given in pieces.
fn read(file: &[u8], piece: usize) -> Result<Vec<BackupItem>, BackupError> {
    let mut reader = BackupReader::default();
    let mut items = Vec::new();
    for piece in file.chunks(piece) {
        reader.push(piece.to_vec());
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
    }
    reader.finish()?;
    Ok(items)
}

#[test]
fn a_file_reads_back_in_pieces_of_any_size() {
    let file = file(&chunks());
    let mut expected = vec![BackupItem::Header(header())];
    expected.extend(chunks().into_iter().map(BackupItem::Entries));
    expected.push(BackupItem::End { entries: 3 });
    for piece in [1, 2, 7, 100, file.len()] {
        assert_eq!(read(&file, piece).as_ref(), Ok(&expected), "pieces of {piece}");
    }
    let empty = super::backups::file(&[]);
    assert_eq!(read(&empty, 10).unwrap().len(), 2);
}

#[test]
fn every_bit_counts_and_so_does_every_missing_end() {
    let file = file(&chunks());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = read(&flipped, 64).expect_err("a flipped bit shows");
        assert!(error.at <= (bit / 8) as u64, "bit {bit} is in the frame at {}", error.at);
    }
    for length in 0..file.len() {
        let error = read(&file[..length], 64).expect_err("a missing end shows");
        assert!(error.problem.starts_with("the file ends early"), "{error}");
    }
    let longer = [&file[..], &[0]].concat();
    assert_eq!(read(&longer, 64).unwrap_err().problem, "bytes follow the end of the backup");
}

#[test]
fn frames_that_are_missing_doubled_swapped_or_of_another_file_show() {
    let [first, second] = &chunks()[..] else { panic!("two chunks") };
    let (mut writer, head) = BackupWriter::begin(&header());
    let (one, two) = (writer.chunk(first), writer.chunk(second));
    let end = writer.end();
    let frames: [&[&Bytes]; 4] = [
        &[&head, &two, &end],
        &[&head, &one, &one, &two, &end],
        &[&head, &two, &one, &end],
        &[&head, &one, &end],
    ];
    for frames in frames {
        let file: Vec<u8> = frames.iter().flat_map(|frame| frame.iter().copied()).collect();
        let error = read(&file, 64).expect_err("it shows");
        assert!(error.problem.contains("not the one that belongs here"), "{error}");
    }
    // Frames that are right each, of another file of the same shape.
    let (mut writer, _) = BackupWriter::begin(&BackupHeader { about: 4, ..header() });
    let (one, two) = (writer.chunk(first), writer.chunk(second));
    let file: Vec<u8> = [head, one, two, writer.end()].concat();
    assert_eq!(read(&file, 64).unwrap_err().problem, "the digest of the whole is another one");
}

#[test]
fn entries_that_cannot_be_are_refused_by_place() {
    let lost = Entry { expires: None, ..entry("d", Content::Dropped { value_digest: Digest([1; 32]) }) };
    for (chunks, expected) in [
        (vec![vec![entry("b", Content::Tombstone), entry("a", Content::Tombstone)]], "entries[1].key"),
        (vec![vec![entry("b", Content::Tombstone)], vec![entry("b", Content::Tombstone)]], "entries[0].key"),
        (vec![vec![lost]], "entries[0].dropped"),
    ] {
        let error = read(&file(&chunks), 64).unwrap_err();
        assert!(error.problem.starts_with(expected), "{error}");
        assert_eq!(error.frame, chunks.len() as u64);
    }
}
