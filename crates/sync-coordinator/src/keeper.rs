//! Writes the coordinator's own files, one after the other, away from everything that must not wait.
//!
//! Three things are kept in `<data_dir>/coordinator`: the history of heals; the pauses after failed pulls, so that
//! a restart does not make a node ask again at once what it was told to leave alone; and how often it has started
//! a new incarnation, so that a restart does not make it start another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lattice_core::backoff::{Pause, Stores};
use lattice_core::coordinator::Memory;
use lattice_core::model::Incarnation;
use lattice_core::time::WallTime;
use lattice_core::{failover, renewal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::heals::{Heal, History};
use lattice_runtime::files;

const HEALS: &str = "heals.jsonl";
const PAUSES: &str = "backoff.json";
const RENEWALS: &str = "incarnations.json";

/// Writes that may wait; more only come when the disk hangs, and are lost then.
const WAITING_MAX: usize = 256;

/// Three for each trusted key, and then some.
const PAUSES_MAX: usize = 4 * lattice_runtime::identity::MEMBERS_MAX;

const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files, opened.
pub(crate) struct Files {
    pub(crate) history: Arc<History>,
    pub(crate) memory: Memory,
    folder: PathBuf,
}

/// Takes in what is to be written; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    sender: mpsc::Sender<Write>,
}

#[derive(Debug)]
pub(crate) enum Write {
    Heal(Box<Heal>),
    Memory(Memory),
}

/// A pause, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    peer: String,
    /// None for both.
    path: Option<KeptPath>,
    failures: u32,
    until_ms: u64,
    /// The stores that it is for; none for a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stores: Option<KeptStores>,
}

#[derive(Serialize, Deserialize)]
struct KeptStores {
    ours: String,
    theirs: Option<String>,
}

/// The new incarnations that were started, as they are kept.
#[derive(Serialize, Deserialize)]
struct KeptRenewals {
    count: u32,
    until_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum KeptPath {
    #[serde(rename = "P2P")]
    P2p,
    #[serde(rename = "HTTP")]
    Http,
}

impl Files {
    /// Reads what is in `folder`.
    pub(crate) fn open(folder: PathBuf) -> std::io::Result<Self> {
        let history = Arc::new(History::open(folder.join(HEALS))?);
        let pauses = read(&folder.join(PAUSES), parse_pauses).unwrap_or_default();
        let renewals = read(&folder.join(RENEWALS), |kept: KeptRenewals| {
            Ok(renewal::Kept { count: kept.count, until: WallTime(kept.until_ms) })
        });
        Ok(Self { history, memory: Memory { pauses, renewals }, folder })
    }

    /// Writes what comes, until `ended` and nothing is left.
    pub(crate) async fn keep(self, mut writes: mpsc::Receiver<Write>, ended: CancellationToken) {
        loop {
            let write = tokio::select! {
                biased;
                write = writes.recv() => write,
                () = ended.cancelled() => None,
            };
            let Some(write) = write else { return };
            let (history, folder) = (Arc::clone(&self.history), self.folder.clone());
            let written = tokio::task::spawn_blocking(move || match write {
                Write::Heal(heal) => history.put(*heal),
                Write::Memory(memory) => write_memory(&folder, &memory),
            });
            if let Err(error) = written.await {
                warn!(%error, "a write failed");
            }
        }
    }
}

impl Keeper {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Write>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { sender }, receiver)
    }

    pub(crate) fn write(&self, write: Write) {
        if self.sender.try_send(write).is_err() {
            warn!("too many writes are waiting: one is lost");
        }
    }
}

/// What a file says; nothing when there is none, or it is damaged.
fn read<Kept: DeserializeOwned, T>(path: &Path, parse: impl Fn(Kept) -> Result<T, String>) -> Option<T> {
    let read = || -> Result<Option<T>, String> {
        let Some(bytes) = files::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        parse(serde_json::from_slice(&bytes).map_err(|error| error.to_string())?).map(Some)
    };
    read().unwrap_or_else(|error| {
        warn!(file = %path.display(), error, "cannot read what was kept: begin without it");
        None
    })
}

fn parse_pauses(kept: Vec<Kept>) -> Result<Vec<Pause>, String> {
    let pause = |(index, kept): (usize, Kept)| {
        Ok(Pause {
            peer: kept.peer.parse().map_err(|error| format!("[{index}].peer: {error}"))?,
            path: kept.path.map(|path| match path {
                KeptPath::P2p => failover::Path::P2p,
                KeptPath::Http => failover::Path::Http,
            }),
            failures: kept.failures,
            until: WallTime(kept.until_ms),
            stores: kept
                .stores
                .map(|stores| parse_stores(&stores))
                .transpose()
                .map_err(|error| format!("[{index}].stores.{error}"))?,
        })
    };
    kept.into_iter().take(PAUSES_MAX).enumerate().map(pause).collect()
}

fn parse_stores(kept: &KeptStores) -> Result<Stores, String> {
    let parse = |name: &str, text: &str| -> Result<Incarnation, String> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|error| format!("{name}: {error}"))?;
        Ok(Incarnation(bytes))
    };
    let theirs = kept.theirs.as_deref().map(|text| parse("theirs", text)).transpose()?;
    Ok(Stores { ours: parse("ours", &kept.ours)?, theirs })
}

fn write_memory(folder: &Path, memory: &Memory) {
    let kept = |pause: &Pause| Kept {
        peer: pause.peer.to_string(),
        path: pause.path.map(|path| match path {
            failover::Path::P2p => KeptPath::P2p,
            failover::Path::Http => KeptPath::Http,
        }),
        failures: pause.failures,
        until_ms: pause.until.millis(),
        stores: pause.stores.map(|Stores { ours, theirs }| KeptStores {
            ours: ours.to_string(),
            theirs: theirs.map(|theirs| theirs.to_string()),
        }),
    };
    let pauses: Vec<_> = memory.pauses.iter().map(kept).collect();
    write(&folder.join(PAUSES), &pauses);
    if let Some(renewal::Kept { count, until }) = memory.renewals {
        write(&folder.join(RENEWALS), &KeptRenewals { count, until_ms: until.millis() });
    }
}

fn write(path: &Path, kept: &impl Serialize) {
    let bytes = serde_json::to_vec(kept).expect("numbers and text are JSON");
    if let Err(error) = files::replace(path, &bytes) {
        warn!(file = %path.display(), %error, "cannot keep what a restart must not forget");
    }
}

#[cfg(test)]
mod tests {
    use lattice_core::model::NodeId;

    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let pauses = vec![
            Pause {
                peer: NodeId([1; 32]),
                path: None,
                failures: 3,
                until: WallTime(5),
                stores: Some(Stores { ours: Incarnation([0xa1; 16]), theirs: Some(Incarnation([0xb2; 16])) }),
            },
            Pause {
                peer: NodeId([2; 32]),
                path: Some(failover::Path::Http),
                failures: 1,
                until: WallTime(6),
                stores: None,
            },
        ];
        let renewals = Some(renewal::Kept { count: 2, until: WallTime(7) });
        let memory = Memory { pauses, renewals };
        let files = Files::open(folder.path().to_owned()).unwrap();
        assert_eq!(files.memory, Memory::default());
        let (keeper, writes) = Keeper::new();
        keeper.write(Write::Memory(memory.clone()));
        // Ended already: what was handed over before is written all the same.
        let ended = CancellationToken::new();
        ended.cancel();
        files.keep(writes, ended).await;
        assert_eq!(Files::open(folder.path().to_owned()).unwrap().memory, memory);
    }

    #[test]
    fn a_damaged_file_costs_what_it_kept_only() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{}", "[{\"peer\": \"xy\", \"path\": null, \"failures\": 1, \"until_ms\": 1}]"] {
            for file in [PAUSES, RENEWALS] {
                std::fs::write(folder.path().join(file), content).unwrap();
            }
            assert_eq!(Files::open(folder.path().to_owned()).unwrap().memory, Memory::default());
        }
    }
}
