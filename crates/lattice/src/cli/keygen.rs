//! `lattice keygen`: makes a node's key before the node first runs, so that others can be told to trust it.

use std::path::Path;

use lattice_runtime::identity::NodeKey;
use serde_json::json;

use super::output::{Failure, Output};

/// Makes the key at `file` unless there is one, and prints its public half.
pub(crate) fn run(file: &Path, out: Output) -> Result<(), Failure> {
    let existed = file.exists();
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::refused(format!("create {}: {error}", folder.display())))?;
    }
    let key = NodeKey::load_or_create(file).map_err(|error| Failure::usage(error.to_string()))?;
    let public = hex::encode(key.public());
    if out.is_json() {
        return out.json(&json!({ "file": file, "public_key": public, "created": !existed }));
    }
    eprintln!("{} {}", if existed { "Key exists already:" } else { "Key created:" }, file.display());
    eprintln!("Public key, for node.trusted_keys of the other nodes:");
    out.line(&public)
}
