//! A client of a node: `cargo run -p lattice-proto --example client -- http://localhost:8080 <its public key>`.

use lattice_core::model::NodeId;
use lattice_core::proof::SealedProof;
use lattice_proto::kv::v1::key_value_client::KeyValueClient;
use lattice_proto::kv::v1::{
    BatchRequest, Condition, DeleteRequest, GetRequest, Operation, ProveRequest, PutRequest, WatchRequest,
    condition, operation,
};
use lattice_proto::types::v1::entry::Content;
use tonic::Code;

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: client URL NODE_KEY".into());
    };
    for line in run(&url, key.parse()?).await? {
        println!("{line}");
    }
    Ok(())
}

/// What happened, line by line. `node` is the key that the answer to the last question must be signed with.
pub async fn run(url: &str, node: NodeId) -> Result<Vec<String>, Error> {
    let mut told = Vec::new();
    let mut kv = KeyValueClient::connect(url.to_owned()).await?;

    // Put, and get: the version is what both answer with.
    let put = PutRequest { key: "rust/colour".into(), value: "blue".into(), ..PutRequest::default() };
    let version = kv.put(put.clone()).await?.into_inner().version;
    let get = GetRequest { key: "rust/colour".into(), version_min: None };
    let entry = kv.get(get).await?.into_inner().entry.ok_or("an answer without an entry")?;
    if let (Some(Content::Value(value)), true) = (entry.content, entry.version == version) {
        told.push(format!("colour is {}", String::from_utf8_lossy(&value)));
    }

    // Write only if nobody else has written since: once it works, and then the version is another.
    let unchanged =
        version.map(|version| Condition { condition: Some(condition::Condition::Version(version)) });
    let conditional = PutRequest { value: "green".into(), condition: unchanged, ..put };
    kv.put(conditional.clone()).await?;
    match kv.put(conditional).await {
        Err(status) if status.code() == Code::FailedPrecondition => {
            told.push("somebody was faster".to_owned())
        }
        other => return Err(format!("the second write should be refused: {other:?}").into()),
    }

    // A watch begins with an id, and each change has one: to go on after it, give it as `since`.
    let watch = WatchRequest { prefix: "rust/".into(), since: String::new() };
    let mut changes = kv.watch(watch).await?.into_inner();
    let begun = changes.message().await?.ok_or("a watch that ended")?.id;

    // Several at once, all or nothing on this node.
    let put = PutRequest { key: "rust/shape".into(), value: "round".into(), ..PutRequest::default() };
    let delete = DeleteRequest { key: "rust/colour".into(), condition: None };
    let operations = [operation::Operation::Put(put), operation::Operation::Delete(delete)];
    let operations = operations.map(|operation| Operation { operation: Some(operation) }).to_vec();
    let versions = kv.batch(BatchRequest { operations }).await?.into_inner().versions;
    told.push(format!("{} versions", versions.len()));

    // A message without an entry only says how far the watch is.
    let mut last = begun.clone();
    for _ in 0..versions.len() {
        let change = loop {
            let message = changes.message().await?.ok_or("a watch that ended")?;
            last = message.id;
            if let Some(entry) = message.entry {
                break entry;
            }
        };
        let what = if matches!(change.content, Some(Content::Value(_))) { "written" } else { "deleted" };
        told.push(format!("{} was {what}", String::from_utf8_lossy(&change.key)));
    }
    let again = kv.watch(WatchRequest { prefix: "rust/".into(), since: last.clone() }).await?;
    let resumed = again.into_inner().message().await?.ok_or("a watch that ended")?.id;
    told.push(format!("went on after the last change: {}", resumed == last && last != begun));

    // A proof holds for a seal, which follows some seconds after a write; until then the newest write is `unsealed`.
    loop {
        let answer = kv.prove(ProveRequest { key: "rust/shape".into(), epoch: None }).await;
        match answer.map(tonic::Response::into_inner) {
            Ok(proof) if proof.unsealed.is_none() => {
                let proof = SealedProof::try_from(proof)?;
                proof.verify(&node, None)?;
                told.push(format!("proved to be there: {}", proof.entry.is_some()));
                return Ok(told);
            }
            Err(status) if status.code() != Code::Unavailable => return Err(status.into()),
            Ok(_) | Err(_) => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
        }
    }
}
