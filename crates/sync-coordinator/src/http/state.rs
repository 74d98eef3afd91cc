//! What a peer's `GET /api/lattice/state` says, read with suspicion.
//!
//! The signed announcement alone counts. The rest of the answer is a copy for people, and it is held against
//! the announcement field by field: a copy that says something else is an answer we do not use, whoever is
//! to blame for it. None of this is held against the identity, since none of it is signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lattice_core::model::Digest;
use lattice_core::seal::{Root, Run};
use lattice_core::signed::{Announcement, Signed, SignedAnnouncement};
use lattice_proto::codec;
use serde::Deserialize;
use serde_json::Value;

use super::TransportError;

/// Why a peer's answer to a poll is not used. Counted against the URL.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It did not come, or not as it should.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Something else than a JSON object.
    #[error("answer is not JSON: {0}")]
    NotJson(String),
    /// JSON, but not of this form.
    #[error("answer has no usable {field}: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The peer itself says that it has no state to tell.
    #[error("answer says success: false")]
    NoSuccess,
    /// A root of another form.
    #[error("merkle_root is neither null nor 64 hex characters")]
    BadRoot,
    /// No root, and yet something under it.
    #[error("merkle_root is null beside {entries} entries and {tombstones} tombstones in the newest seal")]
    NullRootWithCounts {
        /// What the newest run counts.
        entries: u64,
        /// What the newest run counts.
        tombstones: u64,
    },
    /// A seal of the readable copy without a root, and yet something under it.
    #[error("seals[{index}] has a null root beside entries or tombstones")]
    NullRunWithCounts {
        /// Which one.
        index: usize,
    },
    /// There is no announcement.
    #[error("answer is not signed: it carries no announcement")]
    Unsigned,
    /// An announcement that cannot be parsed.
    #[error("announcement is malformed: {0}")]
    Announcement(String),
    /// A signature over something else, or by somebody else.
    #[error("announcement: signature does not verify")]
    Signature,
    /// The copy for people says something else than what was signed.
    #[error("{field} contradicts the signed announcement")]
    Contradiction {
        /// The field.
        field: &'static str,
    },
}

/// Reads an answer's body: well formed, signed by the node that it names, and of one voice. Whether that node
/// is a member is not asked here.
///
/// # Errors
/// [`StateError`]; its transport variants come from elsewhere.
pub fn read(body: &[u8]) -> Result<SignedAnnouncement, StateError> {
    let answer: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| StateError::NotJson(error.to_string()))?;
    if answer.get("success") == Some(&Value::Bool(false)) {
        return Err(StateError::NoSuccess);
    }
    let root = readable_root(&answer)?;
    let announced = codec::decode_announcement(&signed(&answer)?)
        .map_err(|error| StateError::Announcement(error.to_string()))?;
    announced.verify().map_err(|_| StateError::Signature)?;
    compare(&answer, root, &announced.announcement)?;
    Ok(announced)
}

/// `merkle_root`, which must be there: null, or 64 hex characters.
fn readable_root(answer: &serde_json::Map<String, Value>) -> Result<Option<Digest>, StateError> {
    match answer.get("merkle_root") {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| StateError::BadRoot),
        _ => Err(StateError::BadRoot),
    }
}

/// The announcement's bytes and their signature.
fn signed(answer: &serde_json::Map<String, Value>) -> Result<Signed, StateError> {
    let text = |field: &str| match answer.get(field) {
        None | Some(Value::Null) => Err(StateError::Unsigned),
        Some(Value::String(text)) if text.is_empty() => Err(StateError::Unsigned),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Ok(None),
    };
    if answer.get("signed") == Some(&Value::Bool(false)) {
        return Err(StateError::Unsigned);
    }
    let body = text("announcement")?
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or(StateError::Field { field: "announcement", problem: "it is not standard padded base64" })?;
    let mut signature = [0; 64];
    text("signature")?
        .and_then(|text| hex::decode_to_slice(text, &mut signature).ok())
        .ok_or(StateError::Field { field: "signature", problem: "it is not 128 hex characters" })?;
    Ok(Signed { body: Bytes::from(body), signature })
}

/// A run as people read it.
#[derive(Deserialize)]
struct ReadableRun {
    epoch_from: u64,
    epoch_to: u64,
    root: Option<String>,
    entries: u64,
    tombstones: u64,
}

/// Holds the readable copy against what was signed. Fields that are absent say nothing; later releases may
/// add others.
fn compare(
    answer: &serde_json::Map<String, Value>,
    root: Option<Digest>,
    announcement: &Announcement,
) -> Result<(), StateError> {
    let newest = announcement.runs.last();
    let sealed = newest.and_then(|run| run.root);
    let counts = sealed.map_or((0, 0), |root| (root.entries, root.tombstones));
    if root.is_none() && counts != (0, 0) {
        return Err(StateError::NullRootWithCounts { entries: counts.0, tombstones: counts.1 });
    }
    if root != sealed.map(|root| root.digest) {
        return Err(StateError::Contradiction { field: "merkle_root" });
    }

    let node = announcement.node.to_string();
    let incarnation = announcement.incarnation.to_string();
    let texts = [
        ("cluster", announcement.cluster.as_str()),
        ("node", &node),
        ("public_key", &node),
        ("incarnation", &incarnation),
        ("name", announcement.name.as_str()),
    ];
    for (field, expected) in texts {
        let agrees = match answer.get(field) {
            None => true,
            Some(Value::String(text)) => text == expected,
            Some(_) => false,
        };
        if !agrees {
            return Err(StateError::Contradiction { field });
        }
    }
    if answer.get("signed").is_some_and(|signed| *signed != Value::Bool(true)) {
        return Err(StateError::Contradiction { field: "signed" });
    }
    // Before the first seal there is no epoch: null, or zero.
    let epoch = newest.map(|run| run.to.0);
    let epoch_agrees = match answer.get("epoch") {
        None => true,
        Some(Value::Null) => epoch.is_none(),
        Some(value) => value.as_u64() == Some(epoch.unwrap_or(0)),
    };
    if !epoch_agrees {
        return Err(StateError::Contradiction { field: "epoch" });
    }
    // Expired entries are in the seal and not in the state.
    if answer.get("state_size").is_some_and(|size| size.as_u64().is_none_or(|size| size > counts.0)) {
        return Err(StateError::Contradiction { field: "state_size" });
    }
    if let Some(timestamp) = answer.get("timestamp") {
        let time = timestamp.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let millis = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        if millis != Some(announcement.time.millis()) {
            return Err(StateError::Contradiction { field: "timestamp" });
        }
    }
    compare_runs(answer, &announcement.runs)
}

fn compare_runs(answer: &serde_json::Map<String, Value>, runs: &[Run]) -> Result<(), StateError> {
    let Some(seals) = answer.get("seals") else { return Ok(()) };
    let malformed = StateError::Field { field: "seals", problem: "it is not a list of runs" };
    let readable = Vec::<ReadableRun>::deserialize(seals).map_err(|_| malformed)?;
    for (index, run) in readable.iter().enumerate() {
        if run.root.is_none() && (run.entries, run.tombstones) != (0, 0) {
            return Err(StateError::NullRunWithCounts { index });
        }
    }
    let agree = readable.len() == runs.len()
        && readable.iter().zip(runs).all(|(readable, run)| same_run(readable, run));
    if agree { Ok(()) } else { Err(StateError::Contradiction { field: "seals" }) }
}

fn same_run(readable: &ReadableRun, run: &Run) -> bool {
    let counts = |root: Option<Root>| root.map_or((0, 0), |root| (root.entries, root.tombstones));
    readable.epoch_from == run.from.0
        && readable.epoch_to == run.to.0
        && readable.root == run.root.map(|root| root.digest.to_string())
        && (readable.entries, readable.tombstones) == counts(run.root)
}
