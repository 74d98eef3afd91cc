//! Real nodes in real processes: configuration files, keys, ports, and their ends.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use lattice_runtime::identity::NodeKey;
use rand::RngExt as _;

use crate::client::Client;
use crate::wait::{eventually, wall};

/// Timers short enough for a test, and long enough for a loaded machine.
const TIMERS: &str = r#"
[store]
epoch_ms = 500
settle_ms = 1500
"#;
const SENSOR_TIMERS: &str = "heartbeat_interval = \"500ms\"\npeer_timeout = \"4s\"\n";
const COORDINATOR_TIMERS: &str =
    "poll_interval = \"1s\"\nrequest_timeout = \"3s\"\npeerless_timeout = \"4s\"\nreturn_after = \"2s\"\n";
/// The length of an epoch in these tests.
pub const EPOCH_MS: u64 = 500;

/// A node's files and addresses; it may be started and stopped many times.
#[derive(Debug)]
pub struct Member {
    /// Its name, and the name of its folder.
    pub name: String,
    /// Its public key, 64 hex characters.
    pub public_key: String,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its folder: configuration, data, logs.
    pub folder: PathBuf,
    /// Asks it over its gateway.
    pub client: Client,
    /// Where its libp2p listens, when it does.
    pub p2p_address: String,
    /// Where its store, sensor and coordinator listen when they are processes of their own.
    pub service_ports: [u16; 3],
}

/// A cluster's files. Removed at the end, unless a test failed.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub members: Vec<Member>,
    folder: Option<tempfile::TempDir>,
}

/// What a test may ask of a node's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum P2p {
    /// It finds the others, and they find it.
    Connected,
    /// It runs, but nobody knows its address and it knows nobody's.
    Blocked,
    /// `sensor.enabled = false`.
    Disabled,
}

/// A running process of the project; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Cluster {
    /// Writes the files of one node for each of `p2p`, all of which trust each other.
    ///
    /// # Panics
    /// When the machine has no room for them.
    pub fn new(p2p: &[P2p]) -> Self {
        let folder = tempfile::Builder::new().prefix("lattice-test-").tempdir().expect("a folder");
        let ports = free_ports(5 * p2p.len());
        let mut members = Vec::new();
        for (index, ports) in ports.chunks(5).enumerate() {
            let name = format!("node-{}", index + 1);
            let folder = folder.path().join(&name);
            let key_file = folder.join("data/node.key");
            fs::create_dir_all(folder.join("data")).expect("a folder");
            let key = NodeKey::load_or_create(&key_file).expect("a key");
            members.push(Member {
                public_key: hex::encode(key.public()),
                config: folder.join("lattice.toml"),
                folder,
                client: Client::new(&format!("http://127.0.0.1:{}", ports[0])),
                p2p_address: format!("/ip4/127.0.0.1/tcp/{}", ports[1]),
                service_ports: [ports[2], ports[3], ports[4]],
                name,
            });
        }
        let cluster = Self { members, folder: Some(folder) };
        for index in 0..p2p.len() {
            cluster.configure(index, p2p);
        }
        cluster
    }

    /// Writes the configuration of member `index` as an operator would.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, index: usize, p2p: &[P2p]) {
        let member = &self.members[index];
        let connected = |other: usize| p2p[other] == P2p::Connected;
        let others = || (0..self.members.len()).filter(move |other| *other != index);
        let quoted =
            |items: Vec<&str>| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
        let keys = quoted(self.members.iter().map(|member| member.public_key.as_str()).collect());
        let urls = quoted(others().map(|other| self.members[other].client.url.as_str()).collect());
        let bootstrap = quoted(
            others()
                .filter(|other| connected(index) && connected(*other))
                .map(|other| self.members[other].p2p_address.as_str())
                .collect(),
        );
        let [store, sensor, coordinator] = member.service_ports;
        let gateway = member.client.url.trim_start_matches("http://");
        let mut text = String::new();
        let _ = write!(
            text,
            "[node]\nname = \"{}\"\ncluster = \"test\"\ndata_dir = \"{}\"\ntrusted_keys = [{keys}]\n\
             {TIMERS}listen = \"127.0.0.1:{store}\"\n\n\
             [sensor]\nenabled = {}\nlisten = \"127.0.0.1:{sensor}\"\np2p_listen = [\"{}\"]\nbootstrap = [{bootstrap}]\n{SENSOR_TIMERS}\n\
             [coordinator]\nlisten = \"127.0.0.1:{coordinator}\"\nhttp_peers = [{urls}]\n{COORDINATOR_TIMERS}\n\
             [gateway]\nlisten = \"{gateway}\"\n",
            member.name,
            member.folder.join("data").display(),
            p2p[index] != P2p::Disabled,
            member.p2p_address,
        );
        fs::write(&member.config, text).expect("a file");
    }

    /// Starts every node as one process each, and waits until all are ready.
    pub async fn start(&self) -> Vec<Process> {
        let processes: Vec<Process> = self.members.iter().map(Member::start).collect();
        for member in &self.members {
            member.wait_ready().await;
        }
        processes
    }

    /// All clients.
    pub fn clients(&self) -> Vec<&Client> {
        self.members.iter().map(|member| &member.client).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the nodes' files are kept in {}", folder.keep().display());
        }
    }
}

impl Member {
    /// Starts the node as one process.
    pub fn start(&self) -> Process {
        Process::start("lattice", &["node", "--config", &self.config.display().to_string()], &self.folder)
    }

    /// Starts one service of the node as a process of its own.
    pub fn start_service(&self, binary: &str) -> Process {
        Process::start(binary, &["--config", &self.config.display().to_string()], &self.folder)
    }

    /// Waits until all four services answer.
    pub async fn wait_ready(&self) {
        eventually(&format!("{} is ready (see {})", self.name, self.folder.display()), async || {
            self.client.ready().await
        })
        .await;
    }

    /// Waits for a number of live peers.
    pub async fn wait_live(&self, expected: u64) {
        eventually(&format!("{expected} live peers on {}", self.name), async || {
            (self.client.live_peers().await? == expected).then_some(())
        })
        .await;
    }

    /// Waits for a sync mode.
    pub async fn wait_mode(&self, expected: &str) {
        eventually(&format!("sync mode {expected} on {}", self.name), async || {
            (self.client.sync_mode().await? == expected).then_some(())
        })
        .await;
    }

    /// Waits until a key has a value.
    pub async fn wait_value(&self, key: &str, value: &str) {
        eventually(&format!("{key} = {value} on {}", self.name), async || {
            (self.client.get(key).await?? == value).then_some(())
        })
        .await;
    }
}

impl Process {
    /// Starts `binary` with its output in a file of `folder`.
    ///
    /// # Panics
    /// When the binary is not built: `cargo build --workspace --bins`, as `make test` does first.
    pub fn start(binary: &str, args: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(binary_path(binary));
        command.args(args).current_dir(folder);
        Self::spawn(command, folder.join(format!("{binary}.log")))
    }

    /// Starts a command with its output in a file.
    ///
    /// # Panics
    /// When it does not start: `cargo build --workspace --bins` builds our own, as `make test` does first.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("start {command:?}: {error}; build it first: cargo build --workspace --bins")
            });
        Self { child, log }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("its end");
    }

    /// Sends a signal by name, like `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success(), "signal {name} was not delivered");
    }

    /// Asks it to end, and waits until it did.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait().await
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        eventually("the end of a process", async || self.child.try_wait().expect("its status")).await
    }

    /// Its output so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The epoch that a write would belong to now.
pub fn current_epoch() -> u64 {
    epoch_of_ms(EPOCH_MS)
}

/// The epoch that a write would belong to now, where epochs have this length.
pub fn epoch_of_ms(epoch_ms: u64) -> u64 {
    wall().millis() / epoch_ms
}

/// Where cargo put a binary of the workspace: beside the folder of this test's own.
pub fn binary_path(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a path of our own");
    let deps = own.parent().expect("a folder");
    let folder = if deps.ends_with("deps") { deps.parent().expect("target/<profile>") } else { deps };
    folder.join(name)
}

/// Ports below those that the system gives to outgoing connections, free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("no holder panics");
    let given = given.get_or_insert_default();
    let mut random = rand::rng();
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = random.random_range(10_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            ports.push(port);
        }
    }
    ports
}
