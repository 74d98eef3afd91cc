//! `lattice backup` and `lattice restore`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream;
use lattice_proto::codec::{BackupHeader, BackupItem, BackupReader};
use lattice_proto::kv::v1::{BackupRequest, RestoreRequest, RestoreResponse};
use serde_json::json;
use tonic::Request;

use super::client::Connection;
use super::output::{Failure, Output, rfc3339, size};
use super::progress::Progress;

/// How much of a file is read, and sent, at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Writes all entries of the node into a file. It is there under its name only when it is whole.
pub(crate) async fn backup(node: Connection, out: Output, file: &Path) -> Result<(), Failure> {
    let draft = draft_of(file)?;
    let saved = save(&node, &draft).await.and_then(|saved| {
        std::fs::rename(&draft, file).map_err(|error| at(file, &error))?;
        Ok(saved)
    });
    let (header, entries, bytes) = match saved {
        Ok(saved) => saved,
        Err(failure) => {
            // What there is of it is of no use; why it is not whole matters more.
            let _ = std::fs::remove_file(&draft);
            return Err(failure);
        }
    };
    if out.is_json() {
        return out.json(&json!({
            "file": file.display().to_string(),
            "cluster": header.cluster,
            "node": header.node.to_string(),
            "time": rfc3339(header.time.millis()),
            "entries": entries,
            "bytes": bytes,
        }));
    }
    out.line(&format!("{entries} entries in {} written to {}", size(bytes), file.display()))
}

/// Receives a backup, checked as it comes.
async fn save(node: &Connection, draft: &Path) -> Result<(BackupHeader, u64, u64), Failure> {
    // It may take long: it has no deadline.
    let answer = node.key_value().backup(Request::new(BackupRequest {})).await;
    let mut pieces = answer.map_err(|status| node.failure(&status))?.into_inner();
    let mut disk = File::create(draft).map_err(|error| at(draft, &error))?;
    let mut check = Check::default();
    while let Some(piece) = pieces.message().await.map_err(|status| node.failure(&status))? {
        check.take(piece.data.clone()).map_err(received)?;
        disk.write_all(&piece.data).map_err(|error| at(draft, &error))?;
        check.show("received");
    }
    check.shown.end();
    let (header, entries) = check.end().map_err(received)?;
    disk.sync_all().map_err(|error| at(draft, &error))?;
    Ok((header, entries, check.bytes))
}

fn received(problem: String) -> Failure {
    Failure::refused(format!("what the node sent is no whole backup: {problem}"))
}

/// Restores a file, once it was found whole.
pub(crate) async fn restore(
    node: Connection,
    out: Output,
    file: &Path,
    any_cluster: bool,
) -> Result<(), Failure> {
    let (header, entries) = check_file(file)?;
    let disk = File::open(file).map_err(|error| at(file, &error))?;
    let total = disk.metadata().map_err(|error| at(file, &error))?.len();
    // A file that cannot be read to its end is one that ends early: the node says so.
    let pieces =
        stream::unfold((disk, Progress::default(), 0), move |(mut disk, mut shown, sent)| async move {
            let data = next_piece(&mut disk).ok().filter(|data| !data.is_empty());
            let Some(data) = data else {
                shown.end();
                return None;
            };
            let sent = sent + data.len() as u64;
            shown.show(sent, Some(total), || format!("sent {} of {}", size(sent), size(total)));
            Some((RestoreRequest { any_cluster, data }, (disk, shown, sent)))
        });
    let answer = node.key_value().restore(Request::new(pieces)).await;
    let done = answer.map_err(|status| Failure::refused(status.message().to_owned()))?.into_inner();
    debug_assert_eq!(done.entries, entries, "the node read the same file");
    report(out, &header, &done)
}

fn report(out: Output, header: &BackupHeader, done: &RestoreResponse) -> Result<(), Failure> {
    let RestoreResponse { entries, merged, known, held, dropped, .. } = *done;
    if out.is_json() {
        out.json(&json!({
            "cluster": header.cluster,
            "time": rfc3339(header.time.millis()),
            "entries": entries,
            "merged": merged,
            "known": known,
            "held": held,
            "dropped": dropped,
        }))?;
    } else {
        out.line(&format!("{entries} entries: {merged} restored, {known} here already or older"))?;
        if held > 0 {
            out.line(&format!("{held} lie ahead of the node's clock, and are restored when they are due"))?;
        }
    }
    match dropped {
        0 => Ok(()),
        dropped => Err(Failure::refused(format!(
            "{dropped} entries lie ahead of the node's clock, with no room to hold them: restore again later"
        ))),
    }
}

/// Reads a whole file, so that nothing is restored of one that is damaged or ends early.
fn check_file(file: &Path) -> Result<(BackupHeader, u64), Failure> {
    let mut disk = File::open(file).map_err(|error| at(file, &error))?;
    let damaged = |problem: String| Failure::refused(format!("{}: {problem}", file.display()));
    let mut check = Check::default();
    loop {
        let piece = next_piece(&mut disk).map_err(|error| at(file, &error))?;
        if piece.is_empty() {
            check.shown.end();
            return check.end().map_err(damaged);
        }
        check.take(piece).map_err(damaged)?;
        check.show("checked");
    }
}

fn next_piece(disk: &mut File) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    disk.take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

/// A backup being checked.
#[derive(Default)]
struct Check {
    reader: BackupReader,
    header: Option<BackupHeader>,
    bytes: u64,
    shown: Progress,
}

impl Check {
    fn take(&mut self, piece: Bytes) -> Result<(), String> {
        self.bytes += piece.len() as u64;
        self.reader.push(piece);
        while let Some(item) = self.reader.next_item().map_err(|error| error.to_string())? {
            if let BackupItem::Header(header) = item {
                self.header = Some(header);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(BackupHeader, u64), String> {
        self.reader.finish().map_err(|error| error.to_string())?;
        let header = self.header.take().ok_or("the header is missing")?;
        Ok((header, self.reader.entries()))
    }

    fn show(&mut self, what: &str) {
        let (entries, bytes) = (self.reader.entries(), self.bytes);
        let about = self.header.as_ref().map_or(0, |header| header.about);
        // What was written meanwhile is more than the header told.
        let total = (entries <= about).then_some(about);
        self.shown.show(entries, total, || match total {
            Some(about) => format!("{what} {entries} of about {about} entries, {}", size(bytes)),
            None => format!("{what} {entries} entries, {}", size(bytes)),
        });
    }
}

/// Beside the file, so that it can be moved into place.
fn draft_of(file: &Path) -> Result<PathBuf, Failure> {
    let name =
        file.file_name().ok_or_else(|| Failure::usage(format!("{}: names no file", file.display())))?;
    let mut draft = name.to_owned();
    draft.push(".part");
    Ok(file.with_file_name(draft))
}

fn at(file: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("{}: {error}", file.display()))
}
