//! What a process takes of memory, and a folder of the disk.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// What the kernel counts processor time in (`USER_HZ`), which is 100 on every Linux.
const TICK_MS: u64 = 10;

/// What something that was measured took, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// The most memory that the process ever had (`VmHWM`).
    pub rss_peak: u64,
    /// The memory that it had at the end (`VmRSS`).
    pub rss_end: u64,
    /// What its files take on the disk, which may be more or less than their lengths.
    pub disk: u64,
}

impl Usage {
    /// Of a process, and the folder that it writes to, if any.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn of(pid: u32, folder: Option<&Path>) -> Result<Self> {
        let disk = match folder {
            Some(folder) => disk(folder).with_context(|| format!("measure {}", folder.display()))?,
            None => 0,
        };
        Ok(Self { rss_peak: status(pid, "VmHWM:")?, rss_end: status(pid, "VmRSS:")?, disk })
    }

    /// Of this process.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn own(folder: Option<&Path>) -> Result<Self> {
        Self::of(process::id(), folder)
    }
}

/// The processor time that a process has used, in steps of 10 ms.
///
/// # Errors
/// When the system does not tell.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field is a name in parentheses, which may hold anything; of those after it, user and system time.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
    let [user, system] = ticks[..] else { bail!("{path} has no times") };
    Ok(Duration::from_millis((user + system) * TICK_MS))
}

/// The memory that this process has now.
///
/// # Errors
/// When the system does not tell.
pub fn rss() -> Result<u64> {
    status(process::id(), "VmRSS:")
}

fn status(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no {name}"))? << 10)
}

fn disk(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        let file = file?;
        match file.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += disk(&file.path())?,
            Ok(metadata) => bytes += metadata.blocks() * 512,
            // Removed meanwhile by who wrote it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
