//! A proof as JSON: what it says, for people, and the proof itself.
//!
//! `proof` is the base64 of a `lattice.kv.v1.ProveResponse`, and all that is to be believed. The rest follows from
//! it, so that whoever verifies can hold the readable part to the proof.

use lattice_core::model::{Content, Version};
use lattice_core::proof::SealedProof;
use lattice_core::time::WallTime;
use lattice_proto::kv::v1 as wire;
use prost::Message as _;
use serde_json::{Value, json};

use crate::json;
use crate::key;

/// The document of a proof; `None` when it is none.
pub fn document(proof: &wire::ProveResponse) -> Option<Value> {
    let sealed = SealedProof::try_from(proof.clone()).ok()?;
    let unsealed = match &proof.unsealed {
        None => Value::Null,
        Some(unsealed) => {
            let version = Version::try_from(unsealed.version.clone()?).ok()?;
            json!({ "version": version.to_string(), "epoch": unsealed.epoch })
        }
    };
    let entry = sealed.entry.as_ref().map(|entry| {
        let value = match &entry.content {
            Content::Value(value) => Some(json::base64(value)),
            Content::Dropped { .. } | Content::Tombstone => None,
        };
        json!({
            "version": entry.version.to_string(),
            "expires": entry.expires.map(WallTime::millis).map(json::time),
            "deleted": entry.content == Content::Tombstone,
            "value": value,
        })
    });
    let seal = &sealed.seal.seal;
    Some(json!({
        "success": true,
        "key": key::text(sealed.key.as_bytes()),
        "included": entry.is_some(),
        "entry": entry,
        "epoch": seal.epoch.0,
        "unsealed": unsealed,
        "seal": {
            "cluster": seal.cluster,
            "node": seal.node.to_string(),
            "incarnation": seal.incarnation.to_string(),
            "epoch": seal.epoch.0,
            "merkle_root": seal.root.map(|root| root.digest.to_string()),
            "entries": seal.root.map_or(0, |root| root.entries),
            "tombstones": seal.root.map_or(0, |root| root.tombstones),
        },
        "proof": json::base64(&proof.encode_to_vec()),
    }))
}
