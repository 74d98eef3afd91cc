//! Where and when something was measured, and with what.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

const LOCK: &str = include_str!("../../../Cargo.lock");

/// Where, when, and with what.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    date: String,
    commit: String,
    cpu: String,
    cores: usize,
    memory_gb: u64,
    kernel: String,
    /// What the data were written to, where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<String>,
    /// Name and version of what we are compared with, if with anything.
    peers: Vec<String>,
}

impl Machine {
    /// This one; the data go to `dir`, if anywhere.
    pub fn here(dir: Option<&Path>, peers: Vec<String>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let memory_kib = field(&memory, "MemTotal").trim_end_matches("kB").trim().parse::<u64>();
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            commit: commit(),
            cpu: field(&cpu, "model name").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: memory_kib.unwrap_or_default() / 1_000_000,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: dir.map(|dir| file_system(&read("/proc/self/mountinfo"), dir)),
            peers,
        }
    }

    /// One line for each fact or two.
    pub fn lines(&self) -> Vec<String> {
        let Self { date, commit, cpu, cores, memory_gb, kernel, file_system, peers } = self;
        let data = file_system.as_ref().map(|on| format!("; data on {on}")).unwrap_or_default();
        let mut lines = vec![
            format!("{date}, commit {commit}"),
            format!("{cpu}, {cores} cores, {memory_gb} GB; Linux {kernel}{data}"),
        ];
        if !peers.is_empty() {
            lines.push(format!("peers: {}", peers.join(", ")));
        }
        lines
    }
}

/// The value of a line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.trim() == name).map_or("unknown", |(_, value)| value.trim())
}

/// Crates that we are built with, each with its version.
pub fn locked(names: &[&str]) -> Vec<String> {
    let version = |name: &str| {
        let line = format!("name = \"{name}\"");
        let mut lines = LOCK.lines().skip_while(|at| *at != line);
        let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
        version.map_or("unknown", |version| version.trim_matches('"')).to_owned()
    };
    names.iter().map(|name| format!("{name} {}", version(name))).collect()
}

/// The commit, and whether the sources differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let ran =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changed| changed.is_empty()) {
        true => commit,
        false => format!("{commit} with changes"),
    }
}

/// The type of the file system that `dir` is on, and what of.
fn file_system(mounts: &str, dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| PathBuf::from(dir));
    let mut best = (0, "unknown".to_owned());
    for mount in mounts.lines() {
        let Some((before, after)) = mount.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4) else { continue };
        let depth = Path::new(point).components().count();
        // Of two on one point, the later one is on top.
        if dir.starts_with(point) && depth >= best.0 {
            let mut after = after.split(' ');
            let (kind, source) = (after.next().unwrap_or_default(), after.next().unwrap_or_default());
            best = (depth, format!("{kind} ({source})"));
        }
    }
    best.1
}
