//! `lattice backup` and `lattice restore`.
//!
//! A backup takes the place of a file once it is whole; until then it is a draft beside it, with a name of its own that
//! nobody else has, and is removed when the backup fails or is interrupted. What is no file (a device, a fifo, standard
//! output) is written to as it comes: it cannot be replaced, and who reads it finds by the trailer whether it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal as _, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream;
use gateway::json::Restored;
use gateway::problem::Kind;
use lattice_proto::codec::{BackupHeader, BackupItem, BackupReader};
use lattice_proto::kv::v1::{BackupRequest, BackupResponse, RestoreRequest, RestoreResponse};
use lattice_runtime::shutdown;
use serde_json::json;
use tonic::{Code, Request, Status, Streaming};

use super::client::Connection;
use super::output::{Failure, Output, count, rfc3339, size};
use super::progress::Progress;

/// How much of a file is read, and sent, at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Standard output, or standard input.
const STANDARD: &str = "-";

/// Whether a command's file is standard output, or standard input.
pub(crate) fn is_standard(file: &Path) -> bool {
    file.as_os_str() == STANDARD
}

/// Where a backup goes.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Stdout,
    /// A file, which is there as it was until the draft beside it is whole.
    File(PathBuf),
    /// What exists and is no file.
    Special(PathBuf),
}

impl Target {
    /// What `file` stands for; a symbolic link is followed.
    fn of(file: &Path) -> Result<Self, Failure> {
        if is_standard(file) {
            return match io::stdout().is_terminal() {
                true => Err(Failure::usage(
                    "a backup is not for a terminal: redirect it, or name a file".to_owned(),
                )),
                false => Ok(Self::Stdout),
            };
        }
        match fs::metadata(file) {
            Ok(metadata) if metadata.is_dir() => {
                Err(Failure::refused(format!("{}: is a folder: name a file in it", file.display())))
            }
            Ok(metadata) if metadata.is_file() => {
                Ok(Self::File(file.canonicalize().map_err(|error| at(file, &error))?))
            }
            Ok(_) => Ok(Self::Special(file.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_link(file) {
                Ok(target) => Self::of(&file.parent().unwrap_or(Path::new("")).join(target)),
                Err(_) if !folder_of(file).is_dir() => {
                    let why = "there is no such folder: make it first";
                    Err(Failure::refused(format!("{}: {why}", folder_of(file).display())))
                }
                Err(_) => Ok(Self::File(file.to_owned())),
            },
            Err(error) => Err(at(file, &error)),
        }
    }
}

/// Writes all entries of the node into a file. It is there under its name only when it is whole.
pub(crate) async fn backup(node: Connection, out: Output, file: &Path) -> Result<(), Failure> {
    let target = Target::of(file)?;
    // It may take long: it has no deadline.
    let answer = node.key_value().backup(Request::new(BackupRequest {})).await;
    let pieces = answer.map_err(|status| node.key_failure(&status))?.into_inner();
    let (header, entries, bytes) = match target {
        Target::Stdout => {
            let name = Path::new("standard output");
            let mut stdout = io::stdout().lock();
            let saved = save(&node, pieces, name, &mut stdout).await?;
            stdout.flush().map_err(|error| at(name, &error))?;
            let (_, entries, bytes) = saved;
            // Standard error may be closed: the backup is whole all the same.
            let _ = writeln!(io::stderr(), "{} in {} written", counted(entries), size(bytes));
            return Ok(());
        }
        Target::Special(special) => {
            let mut opened =
                OpenOptions::new().write(true).open(&special).map_err(|error| at(&special, &error))?;
            save(&node, pieces, &special, &mut opened).await?
        }
        Target::File(file) => {
            let stop = shutdown::requested().map_err(|error| at(&file, &error))?;
            tokio::select! {
                saved = into_place(&node, pieces, &file) => saved?,
                () = stop => {
                    return Err(Failure::refused(format!("interrupted: nothing was written to {}", file.display())));
                }
            }
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
    out.line(&format!("{} in {} written to {}", counted(entries), size(bytes), file.display()))
}

fn counted(entries: u64) -> String {
    count(entries, "entry", "entries")
}

type Saved = (BackupHeader, u64, u64);

/// Writes a draft beside the file, and moves it into place. It is removed when this ends before that. A new file is the
/// user's alone, as it holds every value; one that is replaced keeps its permissions.
async fn into_place(
    node: &Connection,
    pieces: Streaming<BackupResponse>,
    file: &Path,
) -> Result<Saved, Failure> {
    let failed = |error: io::Error| at(file, &error);
    let mut draft =
        tempfile::Builder::new().prefix(".lattice-backup-").tempfile_in(folder_of(file)).map_err(failed)?;
    if let Ok(replaced) = fs::metadata(file) {
        draft.as_file().set_permissions(replaced.permissions()).map_err(failed)?;
    }
    let saved = save(node, pieces, file, &mut draft).await?;
    draft.as_file().sync_all().map_err(failed)?;
    draft.persist(file).map_err(|error| failed(error.error))?;
    Ok(saved)
}

/// Receives a backup into `to`, which is called `name`; checked as it comes.
async fn save(
    node: &Connection,
    mut pieces: Streaming<BackupResponse>,
    name: &Path,
    to: &mut impl Write,
) -> Result<Saved, Failure> {
    let mut check = Check::default();
    while let Some(piece) = pieces.message().await.map_err(|status| node.key_failure(&status))? {
        check.take(piece.data.clone()).map_err(received)?;
        to.write_all(&piece.data).map_err(|error| at(name, &error))?;
        check.show("received");
    }
    check.shown.end();
    let (header, entries) = check.end().map_err(received)?;
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
    let (entries, disk) = whole(file)?;
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
    let done = answer.map_err(|status| refusal(&node, &status))?.into_inner();
    debug_assert_eq!(done.entries, entries, "the node read the same file");
    report(out, &done)
}

fn report(out: Output, done: &RestoreResponse) -> Result<(), Failure> {
    let RestoreResponse { entries, merged, known, held, dropped, .. } = *done;
    if out.is_json() {
        out.json(&Restored::from(done.clone()))?;
    } else {
        out.line(&format!("{}: {merged} restored, {known} here already or older", counted(entries)))?;
        if held > 0 {
            out.line(&format!("{held} lie ahead of the node's clock, and are restored when they are due"))?;
        }
    }
    match dropped {
        0 => Ok(()),
        dropped => Err(Failure::refused(format!(
            "{dropped} entries lie ahead of the node's clock, with no room to hold them: restore again later"
        ))
        .told()),
    }
}

/// Why the node does not restore, in the words of the command line.
fn refusal(node: &Connection, status: &Status) -> Failure {
    match (status.code(), status.message().strip_prefix("any_cluster: ")) {
        (Code::InvalidArgument, Some(why)) => {
            let why = why.replace("any_cluster=true", "--any-cluster");
            Failure::of_node(Kind::RequestRefused, why).refused_anyway()
        }
        // What is wrong is in the file.
        _ => node.key_failure(status).refused_anyway(),
    }
}

/// Reads a whole backup, and counts its entries, so that nothing is restored of one that is damaged or ends early. What can
/// be read only once is kept beside for that.
fn whole(file: &Path) -> Result<(u64, File), Failure> {
    let failed = |error: &io::Error| at(file, error);
    let (mut disk, check) = if is_standard(file) {
        if io::stdin().is_terminal() {
            return Err(Failure::usage("a backup does not come from a terminal: name a file".to_owned()));
        }
        spooled(&mut io::stdin().lock(), Path::new("standard input"))?
    } else {
        let mut disk = File::open(file).map_err(|error| failed(&error))?;
        match disk.metadata().map_err(|error| failed(&error))?.is_file() {
            true => {
                let check = check(&mut disk, file, |_| Ok(()))?;
                (disk, check)
            }
            false => spooled(&mut disk, file)?,
        }
    };
    disk.rewind().map_err(|error| failed(&error))?;
    let (_, entries) = check;
    Ok((entries, disk))
}

/// Checks what can be read only once, and keeps it in a file without a name.
fn spooled(source: &mut impl Read, name: &Path) -> Result<(File, (BackupHeader, u64)), Failure> {
    let folder = std::env::temp_dir();
    let kept =
        |error: io::Error| Failure::refused(format!("keep it in {} meanwhile: {error}", folder.display()));
    let mut spool = tempfile::tempfile().map_err(kept)?;
    let checked = check(source, name, |piece| spool.write_all(piece).map_err(kept))?;
    Ok((spool, checked))
}

/// Reads a backup to its end; `keep` gets its pieces.
fn check(
    source: &mut impl Read,
    name: &Path,
    mut keep: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(BackupHeader, u64), Failure> {
    let damaged = |problem: String| Failure::refused(format!("{}: {problem}", name.display()));
    let mut check = Check::default();
    loop {
        let piece = next_piece(source).map_err(|error| at(name, &error))?;
        if piece.is_empty() {
            check.shown.end();
            return check.end().map_err(damaged);
        }
        check.take(piece.clone()).map_err(damaged)?;
        keep(&piece)?;
        check.show("checked");
    }
}

fn next_piece(source: &mut impl Read) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    source.take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
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

/// The folder that a file is in, or is to be.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn at(file: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_backup_replaces_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let file = |name: &str| Target::File(root.join(name));
        fs::write(root.join("there"), "before").unwrap();
        symlink("there", root.join("link")).unwrap();
        symlink("link", root.join("link-to-link")).unwrap();
        symlink("later", root.join("dangling")).unwrap();
        symlink("/dev/null", root.join("null")).unwrap();
        for (name, expected) in [
            ("new", file("new")),
            ("there", file("there")),
            ("link", file("there")),
            ("link-to-link", file("there")),
            ("dangling", file("later")),
            ("null", Target::Special(root.join("null"))),
        ] {
            assert_eq!(Target::of(&root.join(name)).unwrap(), expected, "{name}");
        }
        assert_eq!(Target::of(Path::new("/dev/full")).unwrap(), Target::Special("/dev/full".into()));
        for (path, expected) in
            [(root.clone(), "is a folder"), (root.join("no/where"), "no: there is no such folder")]
        {
            let refused = Target::of(&path).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        assert!(!root.join("no").exists());
    }
}
