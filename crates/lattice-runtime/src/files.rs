//! Small files: written whole or not at all, and read up to a limit.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

const OTHERS: u32 = 0o007;

/// Replaces `path` by `bytes`: whoever reads it, now or after a power loss, finds the old or the new content.
///
/// # Errors
/// What the system says; the old content stands then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The content of `path`, at most `limit` bytes; `None` when there is no such file.
///
/// # Errors
/// What the system says, or that the file is too large.
pub fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit), &mut bytes)?;
    Ok(Some(bytes))
}

/// The content of a file that the configuration names, at most `limit` bytes.
///
/// # Errors
/// Why it cannot be had, in words that follow the key and its value: "cannot be read: ..".
pub fn read_named(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    take(file, limit, &mut bytes)?;
    Ok(bytes)
}

/// As [`read_named`], for a secret: refused when other users may open the file, and wiped from memory when it is
/// dropped.
///
/// # Errors
/// As for [`read_named`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.permissions().mode() & OTHERS != 0 {
        return Err("must not be open to other users: chmod 600, or 640 for a group".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    take(file, limit, &mut bytes)?;
    Ok(bytes)
}

fn take(file: File, limit: u64, bytes: &mut Vec<u8>) -> Result<(), String> {
    file.take(limit + 1).read_to_end(bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(format!("must have at most {limit} bytes"));
    }
    Ok(())
}

fn unreadable(error: io::Error) -> String {
    format!("cannot be read: {error}")
}
