//! Hosts on one machine: a network namespace for each node, two bridges, and the link between them.
//!
//! Everything is named after this process, and gone when the network is dropped. The bridges live in a namespace of
//! their own, as does whoever measures: from there both sides are reached also while they do not reach each other.

use std::process::{Command, ExitCode};
use std::{env, process};

use anyhow::{Context as _, Result, bail};

/// Says that this process is in the namespace of the bridges.
const INSIDE: &str = "LATTICE_BENCH_HEAL_NAMESPACE";
/// The address of whoever measures.
const HERE: &str = "10.77.0.254";

/// The hosts of one cluster.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: Vec<String>,
}

/// Whether this process is where the bridges are to be.
pub(crate) fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs this program once more, in a namespace that is gone afterwards.
pub(crate) fn again_inside() -> ExitCode {
    let namespace = format!("lattice-heal-{}", process::id());
    let ran = || -> Result<ExitCode> {
        ip(&["netns", "add", &namespace])
            .context("make a network namespace: this takes root and iproute2")?;
        let own = env::current_exe().context("find this program")?;
        let status = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg(own)
            .args(env::args_os().skip(1))
            .env(INSIDE, &namespace)
            .status()
            .context("run nsenter")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    let ended = ran();
    // It may never have been made.
    let _ = ip(&["netns", "del", &namespace]);
    ended.unwrap_or_else(|error| {
        eprintln!("bench-heal: {error:#}");
        ExitCode::FAILURE
    })
}

impl Network {
    /// So many hosts, the first half of them on one bridge.
    pub(crate) fn new(count: usize) -> Result<Self> {
        let mut network = Self { hosts: Vec::new() };
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
        for index in 0..count {
            let (host, port) = (format!("lattice-heal-{}-{index}", process::id()), format!("port{index}"));
            ip(&["netns", "add", &host])?;
            network.hosts.push(host.clone());
            let bridge = if first_side(index, count) { "br0" } else { "br1" };
            let address = address(index);
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["link", "set", &port, "master", bridge])?;
            ip(&["link", "set", &port, "up"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["route", "add", &format!("{address}/32"), "dev", bridge, "src", HERE])?;
        }
        Ok(network)
    }

    /// What runs a program on a host.
    pub(crate) fn on(&self, index: usize) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.hosts[index]));
        command
    }

    /// Cuts the two sides apart, or joins them.
    pub(crate) fn cut(&self, cut: bool) -> Result<()> {
        ip(&["link", "set", "join0", if cut { "down" } else { "up" }])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Whatever is left of it goes with the namespace of the bridges.
        for host in &self.hosts {
            let _ = ip(&["netns", "del", host]);
        }
        for link in ["join0", "br0", "br1"] {
            let _ = ip(&["link", "del", link]);
        }
    }
}

/// Whether a host is on the first side.
pub(crate) fn first_side(index: usize, count: usize) -> bool {
    index < count.div_ceil(2)
}

/// The address of a host.
pub(crate) fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let ran = Command::new("ip").args(arguments).output().context("run ip")?;
    if !ran.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(())
}
