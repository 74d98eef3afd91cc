//! A disk that is really full: a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use lattice_proto::kv::v1 as kv;
use lattice_proto::{reason, store::v1 as wire};
use state_store::offline;
use tonic::Code;

use crate::harness::{Store, bytes, config, folder, put, until};

/// A file system in memory, gone when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not permitted; says so.
    pub(crate) fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            Ok(output) => {
                println!("SKIPPED: no mount: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: no mount: {error}");
                None
            }
        }
    }

    /// Takes up so much of it.
    fn fill(&self, mib: usize) {
        std::fs::write(self.0.join("filler"), vec![1; mib << 20]).unwrap();
    }

    /// Takes up all but so much of it.
    pub(crate) fn leave(&self, mib: u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let free = (stat.f_bavail * stat.f_frsize) >> 20;
        self.fill(usize::try_from(free - mib).unwrap());
    }

    /// Takes up what is left.
    fn fill_up(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    }

    /// Nothing can be written to it any more.
    fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn problem(store: &Store) -> String {
    store.store.clone().writable(wire::WritableRequest {}).await.unwrap().into_inner().problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_the_store_read_only_until_there_is_room() {
    let folder = folder();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), 160) else { return };
    let store = Store::start(&config(&disk.0.join("data"), None)).await;
    // What fits is written; what does not is refused before the file system is really full.
    disk.fill(60);
    let value = "x".repeat(1 << 20);
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("{:03}", written.len());
        match store.kv.clone().put(put(&key, &value)).await {
            Ok(_) => written.push(key),
            Err(status) => break status,
        }
        assert!(written.len() < 160, "more than there is room for");
    };
    println!("after {} MiB: {:?} {}", written.len(), refused.code(), refused.message());
    assert_eq!((refused.code(), reason::of(&refused)), (Code::ResourceExhausted, Some(reason::DISK_FULL)));
    assert_eq!(problem(&store).await, refused.message());
    let operation = kv::operation::Operation::Put(put("batch", "1"));
    let batch = kv::BatchRequest { operations: vec![kv::Operation { operation: Some(operation) }] };
    let refused = store.kv.clone().batch(batch).await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::DISK_FULL));
    let delete = kv::DeleteRequest { key: bytes("000"), condition: None };
    let refused = store.kv.clone().delete(delete).await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::DISK_FULL));
    // Reads and seals are answered.
    for key in &written {
        assert_eq!(store.get(key).await.unwrap().len(), 1 << 20, "{key}");
    }
    store.seals().await;

    disk.clear();
    until("there is room again", async || problem(&store).await.is_empty().then_some(())).await;
    store.put("after", "1").await;
    store.sealed(written.len() as u64 + 1).await;
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_that_cannot_be_written_says_what_to_do() {
    let folder = folder();
    let Some(disk) = Disk::mount(&folder.path().join("disk"), 160) else { return };
    let config = config(&disk.0.join("data"), None);
    let store = Store::start(&config).await;
    store.put("key", "value").await;
    store.stop().await;
    disk.fill_up();
    let full = offline::check(&config, |_, _| {}).unwrap_err().to_string();
    assert!(full.contains("No space left on device"), "{full}");
    assert!(!full.contains("must be in a folder that this process can write"), "{full}");
    disk.clear();
    disk.make_read_only();
    let refused = offline::check(&config, |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("copy the folder"), "{refused}");
}
