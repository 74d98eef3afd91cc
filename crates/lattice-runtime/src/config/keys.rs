//! Every configuration key, once.

use std::fmt::Write;

use super::Config;
use super::field::{Field, Problem, Raw};

macro_rules! keys {
    ($($section:ident { $($key:ident),* $(,)? })*) => {
        /// The sections and their keys, in the order they are printed in.
        pub(super) const SECTIONS: &[(&str, &[&str])] =
            &[$((stringify!($section), &[$(stringify!($key)),*])),*];

        /// Reads one value into its field; `None` when there is no such key.
        pub(super) fn set(config: &mut Config, section: &str, key: &str, raw: &Raw) -> Option<Result<(), Problem>> {
            match (section, key) {
                $($((stringify!($section), stringify!($key)) => {
                    Some(Field::parse(raw).map(|value| config.$section.$key = value))
                })*)*
                _ => None,
            }
        }

        /// Every value in the order of `SECTIONS`; `None` where a key has none.
        fn values(config: &Config) -> Vec<(&'static str, &'static str, Option<toml::Value>)> {
            vec![$($((stringify!($section), stringify!($key), config.$section.$key.to_toml())),*),*]
        }
    };
}

keys! {
    node { name, cluster, data_dir, key_file, trusted_keys, max_clock_drift }
    store {
        listen, epoch_ms, settle_ms, settle_max_ms, retain_epochs, cache_mb, engine, serve_bytes_per_s,
        check_bytes_per_s
    }
    sensor { enabled, listen, p2p_listen, bootstrap, topic, heartbeat_interval, peer_timeout }
    coordinator {
        listen, http_peers, http_ca, poll_interval, request_timeout, peerless_timeout, return_after,
        divergence_threshold, backoff_max, pulls_max, pull_bytes_per_s, mode,
    }
    gateway {
        listen, token_file, insecure, tls_cert, tls_key, cors_origins, connections_max, requests_max, streams_max,
        request_timeout, rate_per_s, rate_burst,
    }
    telemetry { log_format, otlp_endpoint, metrics_listen }
}

/// Prints one section after the other, each key on its own line.
pub(super) fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    let mut section_open = "";
    for (section, key, value) in values(config) {
        if section != section_open {
            if !section_open.is_empty() {
                text.push('\n');
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "[{section}]");
            section_open = section;
        }
        if let Some(value) = value {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    text
}

/// The keys of `section`; `None` when there is no such section.
pub(super) fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys)
}

/// The known section that reads most like `name`.
pub(super) fn nearest_section(name: &str) -> &'static str {
    nearest(name, SECTIONS.iter().map(|(section, _)| *section))
}

/// The known `section.key` that someone who wrote `key` in the known section `section` most likely meant:
/// the same key of another section, else the nearest of this one.
pub(super) fn nearest_key(section: &str, key: &str) -> String {
    for (other, keys) in SECTIONS {
        if keys.contains(&key) {
            return format!("{other}.{key}");
        }
    }
    let keys = keys_of(section).unwrap_or_default();
    format!("{section}.{}", nearest(key, keys.iter().copied()))
}

/// The known `section.key` whose key reads most like `name`, whatever its section.
pub(super) fn nearest_anywhere(name: &str) -> String {
    let key = nearest(name, SECTIONS.iter().flat_map(|(_, keys)| keys.iter().copied()));
    nearest_key("", key)
}

/// Ties go to the earlier name, so that messages are stable.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let mut best = ("", f64::MIN);
    for candidate in known {
        let score = strsim::jaro_winkler(&name.to_lowercase(), candidate);
        if score > best.1 {
            best = (candidate, score);
        }
    }
    best.0
}
