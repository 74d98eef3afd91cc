//! Every layer, every line of refusal.

use std::path::Path;

use super::*;

fn sources(file: Option<&str>, env: &[(&str, &str)], sets: &[&str]) -> Sources {
    Sources {
        file: file.map(|text| ("lattice.toml".into(), text.into())),
        env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        sets: sets.iter().map(|flag| (*flag).into()).collect(),
        host_name: Some("host-1".into()),
    }
}

fn load_file(text: &str) -> Result<Config, Error> {
    Config::load(sources(Some(text), &[], &[]))
}

fn refusal(outcome: Result<Config, Error>) -> String {
    let line = outcome.expect_err("must be refused").to_string();
    assert!(!line.contains('\n'), "one line: {line}");
    line
}

#[test]
fn defaults_are_those_of_the_interface() {
    let config = Config::load(sources(None, &[], &[])).unwrap();
    let expected = r#"[node]
name = "host-1"
cluster = "lattice"
data_dir = "./data"
key_file = "./data/node.key"
trusted_keys = []
max_clock_drift = "10s"

[store]
listen = "127.0.0.1:7601"
epoch_ms = 1000
settle_ms = 2000
settle_max_ms = 10000
retain_epochs = 30
cache_mb = 64
engine = "sled"
serve_bytes_per_s = 0
check_bytes_per_s = 8388608

[sensor]
enabled = true
listen = "127.0.0.1:7602"
p2p_listen = ["/ip4/0.0.0.0/tcp/9000"]
bootstrap = []
topic = "lattice/v1"
heartbeat_interval = "5s"
peer_timeout = "30s"

[coordinator]
listen = "127.0.0.1:7603"
http_peers = []
poll_interval = "10s"
request_timeout = "5s"
peerless_timeout = "1m"
return_after = "10s"
divergence_threshold = 3
backoff_max = "5m"
pulls_max = 2
pull_bytes_per_s = 0
mode = "auto"

[gateway]
listen = "127.0.0.1:8080"
insecure = false
cors_origins = []
connections_max = 1024
requests_max = 1024
streams_max = 256
request_timeout = "30s"
rate_per_s = 0
rate_burst = 100

[telemetry]
log_format = "text"
"#;
    assert_eq!(config.to_toml(), expected);
    let named = Config { node: Node { name: "host-1".into(), ..Node::default() }, ..Config::default() };
    assert_eq!(config, named);
}

#[test]
fn printed_configuration_loads_back_to_the_same() {
    let text = format!(
        r#"
        [node]
        name = "the \"first\" node"
        cluster = "blue"
        data_dir = "/var/lib/lattice"
        trusted_keys = ["{}", "{}"]
        max_clock_drift = "1500ms"
        [store]
        listen = "unix:/run/lattice/store.sock"
        engine = "memory"
        epoch_ms = 500
        settle_ms = 700
        settle_max_ms = 900
        serve_bytes_per_s = 1000000
        [sensor]
        listen = "[::1]:7602"
        enabled = false
        bootstrap = ["/dns4/a/tcp/9000", "/ip4/10.0.0.2/udp/9000/quic-v1"]
        [coordinator]
        http_peers = ["https://a.example/lattice"]
        http_ca = "/etc/ca.pem"
        peerless_timeout = "2h"
        mode = "p2p"
        pull_bytes_per_s = 65536
        [gateway]
        listen = "0.0.0.0:8080"
        token_file = "tokens"
        tls_cert = "/etc/lattice/tls.crt"
        tls_key = "/etc/lattice/tls.key"
        cors_origins = ["https://app.example"]
        request_timeout = "5s"
        rate_per_s = 50
        [telemetry]
        log_format = "json"
        otlp_endpoint = "http://collector:4317"
        metrics_listen = "0.0.0.0:9100"
        "#,
        "ab".repeat(32),
        "CD".repeat(32),
    );
    let config = load_file(&text).unwrap();
    assert_eq!(config.node.trusted_keys, [[0xab; 32], [0xcd; 32]]);
    assert_eq!(config.node.key_file, PathBuf::from("/var/lib/lattice/node.key"));
    assert_eq!(config.node.max_clock_drift, Duration::from_millis(1500));
    assert_eq!(config.store.listen, Listen::Unix("/run/lattice/store.sock".into()));
    assert_eq!(config.coordinator.mode, Mode::P2p);
    assert_eq!(config.store.engine, Engine::Memory);
    assert_eq!(load_file(&config.to_toml()).unwrap(), config);
    assert_eq!(load_file(&config.to_toml()).unwrap().to_toml(), config.to_toml());
}

#[test]
fn later_layers_override_earlier_ones() {
    let file = "[store]\nepoch_ms = 600\nretain_epochs = 40\ncache_mb = 10\n[node]\nname = \"file\"\n";
    let env = [
        ("LATTICE_STORE__RETAIN_EPOCHS", "50"),
        ("LATTICE_STORE__CACHE_MB", "20"),
        ("LATTICE_SENSOR__BOOTSTRAP", "/ip4/10.0.0.1/tcp/9000, /ip4/10.0.0.2/tcp/9000"),
        ("LATTICE_SENSOR__ENABLED", "false"),
        ("LATTICE_COORDINATOR__POLL_INTERVAL", "500ms"),
    ];
    let sets = ["store.cache_mb=30", "store.cache_mb=31", "node.cluster=blue", "coordinator.http_peers="];
    let config = Config::load(sources(Some(file), &env, &sets)).unwrap();
    assert_eq!(config.node.name, "file");
    assert_eq!(config.node.cluster, "blue");
    assert_eq!(config.store.epoch_ms, 600);
    assert_eq!(config.store.retain_epochs, 50);
    assert_eq!(config.store.cache_mb, 31);
    assert_eq!(config.sensor.bootstrap, ["/ip4/10.0.0.1/tcp/9000", "/ip4/10.0.0.2/tcp/9000"]);
    assert!(!config.sensor.enabled);
    assert_eq!(config.coordinator.poll_interval, Duration::from_millis(500));
    assert!(config.coordinator.http_peers.is_empty());
}

#[test]
fn the_key_file_follows_the_data_folder_unless_it_is_set() {
    let config = Config::load(sources(None, &[("LATTICE_NODE__DATA_DIR", "/a")], &[])).unwrap();
    assert_eq!(config.node.key_file, PathBuf::from("/a/node.key"));
    let config = Config::load(sources(None, &[], &["node.data_dir=/a", "node.key_file=/b/key"])).unwrap();
    assert_eq!(config.node.key_file, PathBuf::from("/b/key"));
}

#[test]
fn variables_that_are_no_configuration_harm_nobody() {
    let env = [
        ("LATTICE_URL", "http://x"),
        ("LATTICE_SERVICE_HOST", "10.0.0.1"),
        ("LATTICE_SERVICE_PORT_HTTP", "80"),
        ("PATH", "/bin"),
        ("OTHER__STORE__X", "1"),
    ];
    Config::load(sources(None, &env, &[])).unwrap();
    let kept = layers_environment(&env);
    assert!(kept.is_empty(), "{kept:?}");
}

fn layers_environment(env: &[(&str, &str)]) -> Vec<(String, String)> {
    layers::environment(env.iter().map(|(name, value)| ((*name).into(), (*value).into()))).unwrap()
}

#[test]
fn a_variable_that_is_not_text_is_refused_only_when_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || std::ffi::OsString::from_vec(b"a\xff".to_vec());
    assert!(layers::environment([("PATH".into(), bytes())].into_iter()).unwrap().is_empty());
    let error = layers::environment([("LATTICE_NODE__NAME".into(), bytes())].into_iter()).unwrap_err();
    assert_eq!(error.to_string(), "LATTICE_NODE__NAME: is \"a\u{fffd}\", must be UTF-8");
}

#[test]
fn the_earlier_systems_variable_is_a_synonym_that_is_beaten() {
    let synonym = ("DIOTEC360_LATTICE_NODES", "http://a:8080,http://b:8080");
    let file = "[coordinator]\nhttp_peers = [\"http://file:8080\"]\n";
    let config = Config::load(sources(Some(file), &[synonym], &[])).unwrap();
    assert_eq!(config.coordinator.http_peers, ["http://a:8080", "http://b:8080"]);

    let own = ("LATTICE_COORDINATOR__HTTP_PEERS", "http://c:8080");
    for env in [[synonym, own], [own, synonym]] {
        let config = Config::load(sources(Some(file), &env, &[])).unwrap();
        assert_eq!(config.coordinator.http_peers, ["http://c:8080"]);
    }
}

#[test]
fn the_standard_endpoint_variable_fills_in_where_none_is_set() {
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4317")];
    let endpoint = |file| Config::load(sources(file, &env, &[])).unwrap().telemetry.otlp_endpoint;
    assert_eq!(endpoint(None).as_deref(), Some("http://standard:4317"));
    let file = "[telemetry]\notlp_endpoint = \"http://file:4317\"\n";
    assert_eq!(endpoint(Some(file)).as_deref(), Some("http://file:4317"));
}

#[test]
fn what_is_unknown_is_refused_with_its_place_and_the_nearest_name() {
    // File, environment, flags, refusal.
    type Case = (
        Option<&'static str>,
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
        &'static str,
    );
    let cases: &[Case] = &[
        (Some("[stor]"), &[], &[], "lattice.toml: unknown section stor, did you mean store?"),
        (Some("[stor]\nx = 1"), &[], &[], "lattice.toml: unknown section stor, did you mean store?"),
        (
            Some("[store]\nepoc_ms = 1"),
            &[],
            &[],
            "lattice.toml: unknown key store.epoc_ms, did you mean store.epoch_ms?",
        ),
        (
            Some("[node]\nbootstrap = []"),
            &[],
            &[],
            "lattice.toml: unknown key node.bootstrap, did you mean sensor.bootstrap?",
        ),
        (
            Some("epoch_ms = 1"),
            &[],
            &[],
            "lattice.toml: epoch_ms stands in no section, did you mean store.epoch_ms?",
        ),
        (Some("store = 1"), &[], &[], "lattice.toml: store must be a section: [store]"),
        (
            Some("[store]\npull_bytes_per_s = 1"),
            &[],
            &[],
            "lattice.toml: unknown key store.pull_bytes_per_s, did you mean coordinator.pull_bytes_per_s?",
        ),
        (
            None,
            &[("LATTICE_STORE__EPOCHS_MS", "1")],
            &[],
            "LATTICE_STORE__EPOCHS_MS: unknown key store.epochs_ms, did you mean store.epoch_ms?",
        ),
        (
            None,
            &[("LATTICE_GATWAY__LISTEN", "1")],
            &[],
            "LATTICE_GATWAY__LISTEN: unknown section gatway, did you mean gateway?",
        ),
        (
            None,
            &[],
            &["coordinator.http_peer=http://a"],
            "--set coordinator.http_peer: unknown key coordinator.http_peer, did you mean coordinator.http_peers?",
        ),
        (None, &[], &["nod.name=a"], "--set nod.name: unknown section nod, did you mean node?"),
        (None, &[], &["name"], "--set name: must be section.key=value, like store.epoch_ms=500"),
        (None, &[], &["name=a.b"], "--set name=a.b: must be section.key=value, like store.epoch_ms=500"),
    ];
    for (file, env, sets, expected) in cases {
        assert_eq!(refusal(Config::load(sources(*file, env, sets))), *expected);
    }
}

#[test]
fn a_value_of_the_wrong_form_is_refused_with_what_would_be_right() {
    let key = "\"".to_owned() + &"ab".repeat(32) + "\"";
    let keys = format!("[node]\ntrusted_keys = [{key}, {key}, \"abc\"]");
    let cases = [
        (
            keys.as_str(),
            "lattice.toml: node.trusted_keys[2] is \"abc\": must be a public key of 64 hex characters",
        ),
        (
            "[node]\ntrusted_keys = \"abc\"",
            "lattice.toml: node.trusted_keys is \"abc\": must be a list, like [\"...\"]",
        ),
        (
            "[node]\nmax_clock_drift = 10",
            "lattice.toml: node.max_clock_drift is 10: must be a duration with one unit, like \"500ms\", \"5s\", \
             \"2m\" or \"1h\"",
        ),
        (
            "[node]\nmax_clock_drift = \"1m30s\"",
            "lattice.toml: node.max_clock_drift is \"1m30s\": must be a duration with one unit, like \"500ms\", \
             \"5s\", \"2m\" or \"1h\"",
        ),
        ("[node]\nname = \"\"", "lattice.toml: node.name is \"\": must be text that is not empty"),
        ("[node]\ndata_dir = 1", "lattice.toml: node.data_dir is 1: must be a path"),
        ("[store]\nepoch_ms = \"1s\"", "lattice.toml: store.epoch_ms is \"1s\": must be a whole number"),
        ("[store]\nepoch_ms = -5", "lattice.toml: store.epoch_ms is -5: must be a whole number"),
        (
            "[store]\nengine = \"rocksdb\"",
            "lattice.toml: store.engine is \"rocksdb\": must be sled, redb or memory",
        ),
        (
            "[store]\nlisten = \"0.0.0.0:7601\"",
            "lattice.toml: store.listen is \"0.0.0.0:7601\": must be loopback or unix:/path, since this port \
             carries no authentication",
        ),
        (
            "[store]\nlisten = 7601",
            "lattice.toml: store.listen is 7601: must be a loopback address with a port like 127.0.0.1:7601, or \
             unix:/path/to.sock",
        ),
        (
            "[store]\nlisten = \"unix:\"",
            "lattice.toml: store.listen is \"unix:\": must be a socket path of 1 to 100 bytes after unix:",
        ),
        ("[sensor]\nenabled = \"yes\"", "lattice.toml: sensor.enabled is \"yes\": must be true or false"),
        (
            "[sensor]\nbootstrap = [1]",
            "lattice.toml: sensor.bootstrap[0] is 1: must be text that is not empty",
        ),
        (
            "[coordinator]\nmode = \"P2P\"",
            "lattice.toml: coordinator.mode is \"P2P\": must be auto, p2p or http",
        ),
        (
            "[gateway]\nlisten = \"8080\"",
            "lattice.toml: gateway.listen is \"8080\": must be an IP address with a port, like 0.0.0.0:8080",
        ),
        (
            "[telemetry]\nlog_format = \"xml\"",
            "lattice.toml: telemetry.log_format is \"xml\": must be text or json",
        ),
        ("[node]\n[node.name]", "lattice.toml: node.name is a table: must be text that is not empty"),
    ];
    for (file, expected) in cases {
        assert_eq!(refusal(load_file(file)), expected);
    }
    let env = [("LATTICE_SENSOR__HEARTBEAT_INTERVAL", "5")];
    assert_eq!(
        refusal(Config::load(sources(None, &env, &[]))),
        "LATTICE_SENSOR__HEARTBEAT_INTERVAL: sensor.heartbeat_interval is \"5\": must be a duration with one \
         unit, like \"500ms\", \"5s\", \"2m\" or \"1h\""
    );
    assert_eq!(
        refusal(Config::load(sources(None, &[], &["coordinator.pulls_max=two"]))),
        "--set coordinator.pulls_max: coordinator.pulls_max is \"two\": must be a whole number"
    );
    let long = "x".repeat(500);
    let line = refusal(Config::load(sources(None, &[], &[&format!("store.epoch_ms={long}")])));
    assert!(line.len() < 200, "{line}");
}

#[test]
fn values_that_cannot_be_are_refused() {
    let drift = "must be at least 469, so that 64 epochs are no shorter than twice store.settle_max_ms (10000) \
                 + node.max_clock_drift (10s); or lower these";
    let drift = format!("store.epoch_ms is 468: {drift}");
    let long = format!("node.cluster={}", "a".repeat(65));
    let long_refused =
        format!("node.cluster is \"{}\": must be 1 to 64 of a-z A-Z 0-9 . _ -", "a".repeat(65));
    let cases: &[(&[&str], &str)] = &[
        (&["node.cluster=a b"], "node.cluster is \"a b\": must be 1 to 64 of a-z A-Z 0-9 . _ -"),
        (&[&long], &long_refused),
        (&["node.name=a\tb"], "node.name is \"a\\tb\": must be 1 to 128 printable characters"),
        (&["node.max_clock_drift=0s"], "node.max_clock_drift is 0ms: must be 1ms to 24h"),
        (&["node.max_clock_drift=25h"], "node.max_clock_drift is 25h: must be 1ms to 24h"),
        (&["store.epoch_ms=0"], "store.epoch_ms is 0: must be 1 to 3600000"),
        (&["store.epoch_ms=468"], &drift),
        (&["store.settle_ms=0"], "store.settle_ms is 0: must be 1 to store.settle_max_ms (10000)"),
        (&["store.settle_ms=10001"], "store.settle_ms is 10001: must be 1 to store.settle_max_ms (10000)"),
        (&["store.settle_max_ms=0"], "store.settle_max_ms is 0: must be 1 to 3600000"),
        (&["store.retain_epochs=0"], "store.retain_epochs is 0: must be 1 to 100000"),
        (&["store.cache_mb=0"], "store.cache_mb is 0: must be 1 to 1048576"),
        (&["sensor.p2p_listen="], "sensor.p2p_listen is a list of 0: must have 1 to 16 elements"),
        (&["sensor.topic=a b"], "sensor.topic is \"a b\": must be 1 to 128 characters without spaces"),
        (&["sensor.heartbeat_interval=0s"], "sensor.heartbeat_interval is 0ms: must be 1ms to 24h"),
        (
            &["sensor.peer_timeout=5s"],
            "sensor.peer_timeout is 5s: must be longer than sensor.heartbeat_interval (5s), best six times as long",
        ),
        (&["coordinator.poll_interval=0ms"], "coordinator.poll_interval is 0ms: must be 1ms to 24h"),
        (&["coordinator.request_timeout=0ms"], "coordinator.request_timeout is 0ms: must be 1ms to 24h"),
        (&["coordinator.peerless_timeout=0ms"], "coordinator.peerless_timeout is 0ms: must be 1ms to 24h"),
        (&["coordinator.return_after=0ms"], "coordinator.return_after is 0ms: must be 1ms to 24h"),
        (&["coordinator.backoff_max=0ms"], "coordinator.backoff_max is 0ms: must be 1ms to 24h"),
        (&["coordinator.divergence_threshold=0"], "coordinator.divergence_threshold is 0: must be 1 to 1000"),
        (&["coordinator.pulls_max=0"], "coordinator.pulls_max is 0: must be 1 to 64"),
        (
            &["coordinator.pull_bytes_per_s=1000"],
            "coordinator.pull_bytes_per_s is 1000: must be 0 (no limit), or at least 65536",
        ),
        (
            &["store.serve_bytes_per_s=65535"],
            "store.serve_bytes_per_s is 65535: must be 0 (no limit), or at least 65536",
        ),
        (&["gateway.connections_max=0"], "gateway.connections_max is 0: must be 1 to 65536"),
        (&["gateway.requests_max=0"], "gateway.requests_max is 0: must be 1 to 65536"),
        (&["gateway.streams_max=65537"], "gateway.streams_max is 65537: must be 1 to 65536"),
        (&["gateway.request_timeout=25h"], "gateway.request_timeout is 25h: must be 1ms to 24h"),
        (&["gateway.rate_per_s=1000001"], "gateway.rate_per_s is 1000001: must be 0 to 1000000"),
        (&["gateway.rate_burst=0"], "gateway.rate_burst is 0: must be 1 to 1000000"),
        (
            &["gateway.tls_cert=a.pem"],
            "gateway.tls_cert is \"a.pem\": needs gateway.tls_key, the file of its private key",
        ),
        (
            &["gateway.tls_key=a.key"],
            "gateway.tls_key is \"a.key\": needs gateway.tls_cert, the file of its certificate",
        ),
        (
            &["gateway.listen=0.0.0.0:8080"],
            "gateway.listen is 0.0.0.0:8080: is reachable by others and has no tokens: set gateway.token_file, \
             listen on 127.0.0.1, or set gateway.insecure = true",
        ),
        (
            &["telemetry.otlp_endpoint=https://collector:4317"],
            "telemetry.otlp_endpoint is \"https://collector:4317\": must be a URL like http://127.0.0.1:4317 (TLS \
             is not built in)",
        ),
        (&["sensor.listen=127.0.0.1:7601"], "sensor.listen is 127.0.0.1:7601: must differ from store.listen"),
    ];
    for (sets, expected) in cases {
        assert_eq!(refusal(Config::load(sources(None, &[], sets))), *expected);
    }
}

#[test]
fn values_at_their_bounds_are_accepted() {
    let cases: &[&[&str]] = &[
        &["store.epoch_ms=469"],
        &[
            "store.epoch_ms=10",
            "store.settle_max_ms=100",
            "store.settle_ms=100",
            "node.max_clock_drift=440ms",
        ],
        &["gateway.listen=0.0.0.0:8080", "gateway.insecure=true"],
        &["gateway.listen=0.0.0.0:8080", "gateway.token_file=tokens"],
        &["gateway.listen=[::1]:8080"],
        &["store.listen=127.0.0.1:0", "sensor.listen=127.0.0.1:0", "gateway.listen=127.0.0.1:0"],
        &["telemetry.otlp_endpoint=", "telemetry.metrics_listen="],
    ];
    for sets in cases {
        Config::load(sources(None, &[], sets)).unwrap();
    }
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let line = refusal(load_file("[node]\nname = \"a\"\ncluster = \n"));
    assert!(line.starts_with("lattice.toml: line 3: "), "{line}");
    let line = refusal(load_file("[node]\nname = \"a\"\nname = \"b\"\n"));
    assert!(line.starts_with("lattice.toml: line 3: duplicate key"), "{line}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = Sources::from_process(Some(Path::new("/nowhere/lattice.toml")), &[]).unwrap_err();
    let expected = "/nowhere/lattice.toml: cannot be read: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_service_refuses_in_the_same_words() {
    let error =
        Error::value("sensor.bootstrap[1]", "nonsense", "must be a multiaddr like /ip4/10.0.0.1/tcp/9000");
    let expected = "sensor.bootstrap[1] is \"nonsense\": must be a multiaddr like /ip4/10.0.0.1/tcp/9000";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_port_that_listens_everywhere_is_dialled_on_loopback() {
    let cases =
        [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("10.0.0.1:8080", "10.0.0.1:8080")];
    for (listens, dialled) in cases {
        assert_eq!(Listen::dial(listens.parse().unwrap()).to_string(), dialled);
    }
}
