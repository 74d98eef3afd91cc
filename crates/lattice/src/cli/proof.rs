//! `lattice proof` and `lattice verify-proof`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lattice_core::model::{Content, Entry, Epoch, Key, NodeId};
use lattice_core::proof::SealedProof;
use lattice_proto::kv::v1::{ProveRequest, ProveResponse};
use prost::Message as _;
use serde_json::{Value, json};

use super::client::Connection;
use super::files::is_standard;
use super::output::{Failure, Output, size};

/// The longest file that is looked at: a value of 1 MiB, twice as base64, and room for the rest.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Prints the proof that a key is there, or is not, as JSON.
pub(crate) async fn proof(
    node: Connection,
    out: Output,
    key: String,
    epoch: Option<u64>,
) -> Result<(), Failure> {
    let request = node.request(ProveRequest { key: key.into(), epoch });
    let answer = node.key_value().prove(request).await.map_err(|status| node.key_failure(&status))?;
    let document = gateway::proof_document(&answer.into_inner());
    out.json(&document.ok_or_else(|| node.nonsense("a proof"))?)
}

/// What a proof must be of; anything where nothing is named.
pub(crate) struct Expected {
    /// Who must have signed it.
    pub(crate) signer: NodeId,
    /// The cluster.
    pub(crate) cluster: Option<String>,
    /// The key that was asked for.
    pub(crate) key: Option<String>,
    /// The epoch of the seal.
    pub(crate) epoch: Option<u64>,
}

/// Says whether a proof is true, and of what was expected.
pub(crate) fn verify(out: Output, file: &Path, expected: &Expected) -> Result<(), Failure> {
    let mut text = Vec::new();
    let read = match is_standard(file) {
        true => io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut text),
        false => File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)),
    };
    read.map_err(|error| Failure::refused(format!("{}: {error}", file.display())))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(untrue(&format!(
            "the file has more than {}, the most that a proof takes",
            size(FILE_BYTES_MAX)
        )));
    }
    let sealed = checked(&text, expected).map_err(|why| untrue(&why))?;
    let seal = &sealed.seal.seal;
    let key = sealed.key.to_string();
    if out.is_json() {
        return out.json(&json!({
            "verified": true,
            "key": String::from_utf8_lossy(sealed.key.as_bytes()),
            "included": sealed.entry.is_some(),
            "version": sealed.entry.as_ref().map(|entry| entry.version.to_string()),
            "epoch": seal.epoch.0,
            "cluster": seal.cluster,
            "node": seal.node.to_string(),
        }));
    }
    let what = told(sealed.entry.as_ref());
    out.line(&format!("true: at epoch {} of cluster {}, {key} {what}", seal.epoch, seal.cluster))
}

fn told(entry: Option<&Entry>) -> String {
    let Some(entry) = entry else { return "was not there".to_owned() };
    let version = entry.version;
    match &entry.content {
        Content::Value(value) => format!("had a value of {}, version {version}", size(value.len() as u64)),
        Content::Dropped { .. } => format!("had a value that has expired, version {version}"),
        Content::Tombstone => format!("was deleted, version {version}"),
    }
}

fn untrue(why: &str) -> Failure {
    Failure::untrue(format!("not true: {why}"))
}

/// The proof in the text of a file, if it is true, and the rest of the file says the same.
fn checked(text: &[u8], expected: &Expected) -> Result<SealedProof, String> {
    let document: Value =
        serde_json::from_slice(text).map_err(|error| format!("the file is no proof: {error}"))?;
    let proof =
        document.get("proof").and_then(Value::as_str).ok_or("the file is no proof: proof is missing")?;
    let proof = BASE64.decode(proof).map_err(|error| format!("proof: {error}"))?;
    let wire = ProveResponse::decode(&*proof).map_err(|error| format!("proof: {error}"))?;
    let sealed = SealedProof::try_from(wire.clone()).map_err(|error| format!("proof: {error}"))?;
    let Expected { signer, cluster, key, epoch } = expected;
    let key = key.clone().map_or(Ok(sealed.key.clone()), |key| Key::try_from(key.as_str()));
    let key = key.map_err(|error| format!("--of {error}"))?;
    sealed
        .verify(signer, cluster.as_deref())
        .and_then(|()| sealed.answers(&key, epoch.map(Epoch)))
        .map_err(|error| error.to_string())?;
    let proven = gateway::proof_document(&wire).ok_or("the file is no proof: nothing can be read of it")?;
    says(&document, &proven, "").map(|()| sealed)
}

/// Whether a document says what was proven, below the member `of`. It may say more: what later releases add.
fn says(document: &Value, proven: &Value, of: &str) -> Result<(), String> {
    let (Value::Object(document), Value::Object(proven)) = (document, proven) else {
        let same = document == proven;
        return same.then_some(()).ok_or_else(|| format!("{of} is not what the proof says: {proven}"));
    };
    proven.iter().try_for_each(|(name, proven)| {
        let member = if of.is_empty() { name.clone() } else { format!("{of}.{name}") };
        match document.get(name) {
            Some(said) => says(said, proven, &member),
            None => Err(format!("{member} is missing: the proof says {proven}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_say_more_than_is_proven_and_nothing_else() {
        let proven = json!({ "key": "a", "entry": null, "seal": { "epoch": 7, "entries": 1 } });
        for (document, refused) in [
            (json!({ "key": "a", "entry": null, "seal": { "epoch": 7, "entries": 1 } }), None),
            (
                json!({ "key": "a", "entry": null, "seal": { "epoch": 7, "entries": 1, "more": 1 }, "new": 1 }),
                None,
            ),
            (json!({ "key": "b", "entry": null, "seal": { "epoch": 7, "entries": 1 } }), Some("key is not")),
            (json!({ "key": "a", "seal": { "epoch": 7, "entries": 1 } }), Some("entry is missing")),
            (
                json!({ "key": "a", "entry": null, "seal": { "epoch": 8, "entries": 1 } }),
                Some("seal.epoch is not"),
            ),
            (json!({ "key": "a", "entry": null, "seal": { "epoch": 7 } }), Some("seal.entries is missing")),
            (json!({ "key": "a", "entry": null, "seal": 7 }), Some("seal is not")),
            (json!({ "key": "a", "entry": {}, "seal": { "epoch": 7, "entries": 1 } }), Some("entry is not")),
            (json!([]), Some("is not")),
        ] {
            let said = says(&document, &proven, "").err();
            assert_eq!(said.is_some(), refused.is_some(), "{document}: {said:?}");
            assert!(said.unwrap_or_default().contains(refused.unwrap_or_default()), "{document}");
        }
    }
}
