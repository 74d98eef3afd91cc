//! What a configuration must satisfy beyond the form of each value.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::{Config, Error};
use crate::duration;

const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
const LIST_LEN_MAX: usize = 1024;
const MS_MAX: u64 = 3_600_000;
const BYTES_PER_S_MIN: u64 = 64 << 10;
/// A node publishes this many runs; roots can be compared no further back.
const EPOCHS_COMPARED: u64 = 64;

pub(super) fn check(config: &Config) -> Result<(), Error> {
    node(config)?;
    store(config)?;
    sensor(config)?;
    coordinator(config)?;
    gateway(config)?;
    telemetry(config)
}

fn node(config: &Config) -> Result<(), Error> {
    let node = &config.node;
    let printable = |text: &str| !text.trim().is_empty() && !text.chars().any(char::is_control);
    if node.name.chars().count() > 128 || !printable(&node.name) {
        return Err(Error::value("node.name", &node.name, "must be 1 to 128 printable characters"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if node.cluster.is_empty() || node.cluster.len() > 64 || !node.cluster.chars().all(plain) {
        return Err(Error::value("node.cluster", &node.cluster, "must be 1 to 64 of a-z A-Z 0-9 . _ -"));
    }
    list("node.trusted_keys", node.trusted_keys.len(), 0..=LIST_LEN_MAX)?;
    duration("node.max_clock_drift", node.max_clock_drift)
}

fn store(config: &Config) -> Result<(), Error> {
    let store = &config.store;
    within("store.epoch_ms", store.epoch_ms, 1..=MS_MAX)?;
    within("store.settle_max_ms", store.settle_max_ms, 1..=MS_MAX)?;
    if store.settle_ms == 0 || store.settle_ms > store.settle_max_ms {
        let expected = format!("must be 1 to store.settle_max_ms ({})", store.settle_max_ms);
        return Err(refused("store.settle_ms", store.settle_ms, expected));
    }
    within("store.retain_epochs", store.retain_epochs, 1..=100_000)?;
    within("store.cache_mb", store.cache_mb, 1..=1_048_576)?;
    budget("store.serve_bytes_per_s", store.serve_bytes_per_s)?;
    within("store.check_bytes_per_s", store.check_bytes_per_s, 0..=1 << 40)?;

    // The drift is at most a day and the rest an hour: no overflow.
    let drift_ms = u64::try_from(config.node.max_clock_drift.as_millis()).unwrap_or(u64::MAX);
    let apart_ms = (2 * store.settle_max_ms).saturating_add(drift_ms);
    if EPOCHS_COMPARED * store.epoch_ms < apart_ms {
        let least = apart_ms.div_ceil(EPOCHS_COMPARED);
        let expected = format!(
            "must be at least {least}, so that {EPOCHS_COMPARED} epochs are no shorter than twice \
             store.settle_max_ms ({}) + node.max_clock_drift ({}); or lower these",
            store.settle_max_ms,
            duration::print(config.node.max_clock_drift),
        );
        return Err(refused("store.epoch_ms", store.epoch_ms, expected));
    }
    Ok(())
}

fn sensor(config: &Config) -> Result<(), Error> {
    let sensor = &config.sensor;
    list("sensor.p2p_listen", sensor.p2p_listen.len(), 1..=16)?;
    list("sensor.bootstrap", sensor.bootstrap.len(), 0..=LIST_LEN_MAX)?;
    if sensor.topic.len() > 128 || sensor.topic.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::value(
            "sensor.topic",
            &sensor.topic,
            "must be 1 to 128 characters without spaces",
        ));
    }
    duration("sensor.heartbeat_interval", sensor.heartbeat_interval)?;
    duration("sensor.peer_timeout", sensor.peer_timeout)?;
    if sensor.peer_timeout <= sensor.heartbeat_interval {
        let expected = format!(
            "must be longer than sensor.heartbeat_interval ({}), best six times as long",
            duration::print(sensor.heartbeat_interval),
        );
        return Err(refused("sensor.peer_timeout", duration::print(sensor.peer_timeout), expected));
    }
    Ok(())
}

fn coordinator(config: &Config) -> Result<(), Error> {
    let coordinator = &config.coordinator;
    list("coordinator.http_peers", coordinator.http_peers.len(), 0..=LIST_LEN_MAX)?;
    duration("coordinator.poll_interval", coordinator.poll_interval)?;
    duration("coordinator.request_timeout", coordinator.request_timeout)?;
    duration("coordinator.peerless_timeout", coordinator.peerless_timeout)?;
    duration("coordinator.return_after", coordinator.return_after)?;
    within("coordinator.divergence_threshold", coordinator.divergence_threshold, 1..=1_000)?;
    duration("coordinator.backoff_max", coordinator.backoff_max)?;
    within("coordinator.pulls_max", coordinator.pulls_max, 1..=64)?;
    budget("coordinator.pull_bytes_per_s", coordinator.pull_bytes_per_s)
}

fn gateway(config: &Config) -> Result<(), Error> {
    let gateway = &config.gateway;
    let open = gateway.token_file.is_none() && !gateway.insecure;
    if open && !gateway.listen.ip().is_loopback() {
        return Err(refused(
            "gateway.listen",
            gateway.listen,
            "is reachable by others and has no tokens: set gateway.token_file, listen on 127.0.0.1, or set \
             gateway.insecure = true",
        ));
    }
    list("gateway.cors_origins", gateway.cors_origins.len(), 0..=LIST_LEN_MAX)?;
    within("gateway.connections_max", gateway.connections_max, 1..=65_536)?;
    within("gateway.requests_max", gateway.requests_max, 1..=65_536)?;
    within("gateway.streams_max", gateway.streams_max, 1..=65_536)?;
    duration("gateway.request_timeout", gateway.request_timeout)?;
    within("gateway.rate_per_s", gateway.rate_per_s, 0..=1_000_000)?;
    within("gateway.rate_burst", gateway.rate_burst, 1..=1_000_000)?;
    let path = |path: &Path| path.display().to_string();
    match (&gateway.tls_cert, &gateway.tls_key) {
        (Some(cert), None) => {
            let expected = "needs gateway.tls_key, the file of its private key";
            Err(Error::value("gateway.tls_cert", path(cert), expected))
        }
        (None, Some(key)) => {
            let expected = "needs gateway.tls_cert, the file of its certificate";
            Err(Error::value("gateway.tls_key", path(key), expected))
        }
        (None, None) | (Some(_), Some(_)) => Ok(()),
    }
}

fn telemetry(config: &Config) -> Result<(), Error> {
    if let Some(endpoint) = &config.telemetry.otlp_endpoint {
        let authority = endpoint.strip_prefix("http://").unwrap_or_default();
        if authority.trim_matches('/').is_empty() || endpoint.parse::<http::Uri>().is_err() {
            let expected = "must be a URL like http://127.0.0.1:4317 (TLS is not built in)";
            return Err(Error::value("telemetry.otlp_endpoint", endpoint, expected));
        }
    }
    distinct_ports(config)
}

/// Two services cannot have one port; told here, since a bind error would name only the second.
fn distinct_ports(config: &Config) -> Result<(), Error> {
    let mut seen: Vec<(&str, String)> = Vec::new();
    let tcp = |address: &SocketAddr| (address.port() != 0).then(|| address.to_string());
    let ports = [
        ("store.listen", listen_key(&config.store.listen)),
        ("sensor.listen", listen_key(&config.sensor.listen)),
        ("coordinator.listen", listen_key(&config.coordinator.listen)),
        ("gateway.listen", tcp(&config.gateway.listen)),
        ("telemetry.metrics_listen", config.telemetry.metrics_listen.as_ref().and_then(tcp)),
    ];
    for (field, address) in ports {
        let Some(address) = address else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, taken)| *taken == address) {
            return Err(refused(field, address, format!("must differ from {other}")));
        }
        seen.push((field, address));
    }
    Ok(())
}

/// `None` for port 0: any free port.
fn listen_key(listen: &super::Listen) -> Option<String> {
    match listen {
        super::Listen::Tcp(address) if address.port() == 0 => None,
        other => Some(other.to_string()),
    }
}

fn within<T: PartialOrd + Display + Copy>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(refused(field, value, format!("must be {} to {}", range.start(), range.end())))
}

/// One answer between nodes takes up to two mebibytes: at a lower rate, a pull would only wait.
fn budget(field: &str, bytes_per_s: u64) -> Result<(), Error> {
    if bytes_per_s == 0 || bytes_per_s >= BYTES_PER_S_MIN {
        return Ok(());
    }
    Err(refused(field, bytes_per_s, format!("must be 0 (no limit), or at least {BYTES_PER_S_MIN}")))
}

fn list(field: &str, len: usize, range: RangeInclusive<usize>) -> Result<(), Error> {
    if range.contains(&len) {
        return Ok(());
    }
    let expected = format!("must have {} to {} elements", range.start(), range.end());
    Err(refused(field, format!("a list of {len}"), expected))
}

fn duration(field: &str, value: Duration) -> Result<(), Error> {
    if (Duration::from_millis(1)..=DURATION_MAX).contains(&value) {
        return Ok(());
    }
    Err(refused(field, duration::print(value), "must be 1ms to 24h"))
}

fn refused(field: &str, value: impl Display, expected: impl Into<String>) -> Error {
    Error::Value { field: field.to_owned(), value: value.to_string(), expected: expected.into() }
}
