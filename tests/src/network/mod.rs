//! Hosts on one machine: a network namespace for each node, two bridges, and the link between them.
//!
//! The bridges live in a namespace of their own, and whoever makes a network is there until it is dropped: from there
//! all hosts are reached, also while they do not reach each other, and nothing that is done to their lines is done to
//! the one who looks. A thread is in a namespace, not a process: tests run side by side, each with a network of its
//! own. Everything is named after the process and gone when the network is dropped, also by a panic. Takes Linux, root,
//! iproute2, and iptables for what goes wrong on a line.

mod delay;
pub mod nodes;

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use delay::Delay;

/// The address of whoever looks.
const HERE: &str = "10.77.0.254";

/// The hosts of one cluster.
#[derive(Debug)]
pub struct Network {
    // In this order: nobody delays for a host that is gone.
    delays: Vec<Delay>,
    hosts: Vec<Namespace>,
    _bridges: Namespace,
    /// Where this thread was before; it returns there.
    before: File,
    _this_thread: PhantomData<*const ()>,
}

/// A network namespace with a name.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Network {
    /// So many hosts, the first half of them on one bridge. This thread is where the bridges are from now on, and so are
    /// the threads that it starts.
    ///
    /// # Errors
    /// When they cannot be made: without root, or iproute2.
    pub fn new(count: usize) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("lattice-{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let before = File::open("/proc/thread-self/ns/net").context("open the namespace of this thread")?;
        let bridges = Namespace::new(prefix.clone())
            .context("make a network namespace: this takes root and iproute2")?;
        bridges.enter()?;
        let mut network = Self {
            delays: Vec::new(),
            hosts: Vec::new(),
            _bridges: bridges,
            before,
            _this_thread: PhantomData,
        };
        network.join_bridges()?;
        for index in 0..count {
            network.hosts.push(Namespace::new(format!("{prefix}-{index}"))?);
            network.join_host(index, if first_side(index, count) { "br0" } else { "br1" })?;
        }
        Ok(network)
    }

    fn join_bridges(&self) -> Result<()> {
        ip(&["link", "set", "lo", "up"])?;
        for bridge in ["br0", "br1"] {
            ip(&["link", "add", bridge, "type", "bridge"])?;
            ip(&["link", "set", bridge, "up"])?;
        }
        ip(&["address", "add", &format!("{HERE}/32"), "dev", "br0"])?;
        ip(&["link", "add", "join0", "type", "veth", "peer", "name", "join1"])?;
        for (link, bridge) in [("join0", "br0"), ("join1", "br1")] {
            ip(&["link", "set", link, "master", bridge])?;
            ip(&["link", "set", link, "up"])?;
        }
        Ok(())
    }

    fn join_host(&self, index: usize, bridge: &str) -> Result<()> {
        let (host, port, address) = (&self.hosts[index].name, format!("port{index}"), address(index));
        ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", host])?;
        ip(&["link", "set", &port, "master", bridge])?;
        ip(&["link", "set", &port, "up"])?;
        ip(&["-n", host, "link", "set", "lo", "up"])?;
        ip(&["-n", host, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", host, "link", "set", "eth0", "up"])?;
        ip(&["route", "add", &format!("{address}/32"), "dev", bridge, "src", HERE])
    }

    /// What runs a program on a host.
    pub fn on(&self, index: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.hosts[index].path()));
        command
    }

    /// Cuts the two sides apart, or joins them. Connections stay as they are, and packets no longer arrive.
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub fn cut(&self, cut: bool) -> Result<()> {
        ip(&["link", "set", "join0", if cut { "down" } else { "up" }])
    }

    /// Lets nothing of what `from` sends arrive at `to`, or lets it pass again. The other direction stays as it is.
    ///
    /// # Errors
    /// When iptables does not do it.
    pub fn block(&self, from: usize, to: usize, block: bool) -> Result<()> {
        let change = if block { "--append" } else { "--delete" };
        self.iptables(to, &[change, "INPUT", "--source", &address(from), "--jump", "DROP"]).map(drop)
    }

    /// Loses so many of a hundred packets, wherever they come from another host.
    ///
    /// # Errors
    /// When iptables does not do it.
    pub fn lose(&self, percent: u8) -> Result<()> {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        let random = ["--match", "statistic", "--mode", "random", "--probability", &probability];
        for index in 0..self.hosts.len() {
            self.add_rule_for_others(index, &[&random[..], &["--jump", "DROP"]].concat())?;
        }
        Ok(())
    }

    /// Lets every packet arrive so much later, wherever it comes from another host.
    ///
    /// # Errors
    /// When the packets cannot be had.
    pub fn delay(&mut self, by: Duration) -> Result<()> {
        for index in 0..self.hosts.len() {
            self.delays.push(Delay::start(File::open(self.hosts[index].path())?, by)?);
            self.add_rule_for_others(
                index,
                &["--jump", "NFQUEUE", "--queue-num", &delay::QUEUE.to_string()],
            )?;
        }
        Ok(())
    }

    /// How many packets were lost, delayed or blocked so far.
    ///
    /// # Errors
    /// When iptables does not tell.
    pub fn packets_caught(&self) -> Result<u64> {
        let mut caught = 0;
        for index in 0..self.hosts.len() {
            let listed = self.iptables(index, &["--list", "INPUT", "--numeric", "--verbose", "--exact"])?;
            // Two lines of headings, and then one for each rule, which begins with its packets.
            for rule in listed.lines().skip(2) {
                let packets = rule.split_whitespace().next().context("a rule without packets")?;
                caught += packets.parse::<u64>().with_context(|| format!("read {rule:?}"))?;
            }
        }
        Ok(caught)
    }

    fn add_rule_for_others(&self, index: usize, what: &[&str]) -> Result<()> {
        let rule = [&["--append", "INPUT", "--in-interface", "eth0", "!", "--source", HERE], what].concat();
        self.iptables(index, &rule).map(drop)
    }

    fn iptables(&self, index: usize, arguments: &[&str]) -> Result<String> {
        let mut command = self.on(index);
        command.args(["iptables", "--wait"]).args(arguments);
        run(command)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The namespaces are removed by name, from wherever this is.
        if let Err(error) = enter(&self.before) {
            eprintln!("back into the namespace of before: {error}");
        }
    }
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    fn enter(&self) -> Result<()> {
        let file = File::open(self.path()).context("open a namespace")?;
        enter(&file).context("enter a namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its bridges, links and rules go with it.
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Whether a host is on the first side.
pub fn first_side(index: usize, count: usize) -> bool {
    index < count.div_ceil(2)
}

/// The address of a host.
pub fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

/// Moves this thread into a namespace.
fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments);
    run(command).map(drop)
}

/// Runs a command to its end. Its output.
fn run(mut command: Command) -> Result<String> {
    let ran = command.output().with_context(|| format!("run {command:?}"))?;
    if !ran.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}
