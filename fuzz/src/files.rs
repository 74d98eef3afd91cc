//! What is read from files and other texts.

use lattice_proto::codec::{BackupItem, BackupReader, BackupWriter};
use lattice_runtime::config::{Config, Sources};

use crate::records::parts;

/// A backup file. No made-up bytes have the right checksums: those whose first byte is odd get them.
pub(crate) fn backup(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let file = if first % 2 == 0 { rest.to_vec() } else { framed(rest) };
    let mut reader = BackupReader::default();
    let mut items = Vec::new();
    // In pieces of some size.
    for piece in file.chunks(usize::from(*first).max(1) * 16) {
        reader.push(piece.to_vec());
        loop {
            match reader.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    if reader.finish().is_err() {
        return;
    }
    // The trailer has the digest of what was read: written again, it reads the same.
    let mut items = items.into_iter();
    let Some(BackupItem::Header(header)) = items.next() else { panic!("a backup begins with its header") };
    let (mut writer, first) = BackupWriter::begin(&header);
    let mut again = BackupReader::default();
    again.push(first);
    let mut entries = 0;
    for item in items {
        match item {
            BackupItem::Header(_) => panic!("a second header"),
            BackupItem::Entries(chunk) => {
                entries += chunk.len() as u64;
                again.push(writer.chunk(&chunk));
            }
            BackupItem::End { entries: counted } => assert_eq!(counted, entries),
        }
    }
    again.push(writer.end());
    while again.next_item().expect("what was read can be written").is_some() {}
    again.finish().expect("to its end");
    assert_eq!(again.entries(), entries);
}

/// Frames, each with the checksum that belongs to it: its kind is the first byte of its part.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut file = b"LTBACKUP".to_vec();
    for (number, part) in parts(bytes).into_iter().enumerate() {
        let Some((kind, content)) = part.split_first() else { continue };
        let length = u32::try_from(content.len()).expect("an input is short");
        let sum = lattice_core::model::Digest::of(&[
            b"lattice/v1/backup\0",
            &(number as u64).to_be_bytes(),
            &[*kind],
            content,
        ]);
        file.push(*kind);
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(content);
        file.extend_from_slice(&sum.as_bytes()[..8]);
    }
    file
}

/// What a peer answers to a poll: JSON.
pub(crate) fn state(bytes: &[u8]) {
    let _ = sync_coordinator::http::read_state(bytes);
}

/// A configuration file, whose lines after one of three dashes are `--set` flags.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (file, sets) = text.split_once("\n---\n").unwrap_or((text, ""));
    let sources = |text: &str, sets: &str| Sources {
        file: Some(("lattice.toml".to_owned(), text.to_owned())),
        env: Vec::new(),
        sets: sets.lines().map(str::to_owned).collect(),
        host_name: Some("host".to_owned()),
    };
    if let Ok(config) = Config::load(sources(file, sets)) {
        let again = Config::load(sources(&config.to_toml(), ""));
        assert_eq!(again.expect("what is printed can be read"), config);
    }
}
