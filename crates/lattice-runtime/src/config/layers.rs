//! Lays the layers over each other: defaults, file, environment, flags.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use super::field::Raw;
use super::{Config, Error, keys};

/// The file that is read without being named, when it exists.
const DEFAULT_FILE: &str = "lattice.toml";
/// A configuration beyond this is a mistake, not a configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What the earlier system called `LATTICE_COORDINATOR__HTTP_PEERS`.
const HTTP_PEERS_SYNONYM: &str = "DIOTEC360_LATTICE_NODES";
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Everything a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file's name (for messages) and text.
    pub file: Option<(String, String)>,
    /// The environment; what does not concern us is skipped.
    pub env: Vec<(String, String)>,
    /// `--set` flags, in order.
    pub sets: Vec<String>,
    /// Default of `node.name`; `None` takes the host's name.
    pub host_name: Option<String>,
}

impl Sources {
    /// Collects the sources of this process: the named file, else `lattice.toml` if it exists.
    pub fn from_process(file: Option<&Path>, sets: &[String]) -> Result<Self, Error> {
        let text = match file {
            Some(path) => Some((path.display().to_string(), read(path)?)),
            None => match read(Path::new(DEFAULT_FILE)) {
                Ok(text) => Some((DEFAULT_FILE.to_owned(), text)),
                Err(Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        Ok(Self { file: text, env: environment(std::env::vars_os())?, sets: sets.to_vec(), host_name: None })
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        let too_long = format!("is {length} bytes long, a configuration has at most {FILE_BYTES_MAX}");
        return Err(failed(std::io::Error::new(ErrorKind::FileTooLarge, too_long)));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Keeps what concerns us, so that a variable of somebody else may hold any bytes.
pub(super) fn environment(
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Error> {
    let mut kept = Vec::new();
    for (name, value) in vars {
        let Some(name) = name.to_str().filter(|name| concerns_us(name)) else {
            continue;
        };
        let value = value.into_string().map_err(|bytes| Error::Unknown {
            origin: name.to_owned(),
            what: format!("is {}, must be UTF-8", super::error::quote(&bytes.to_string_lossy())),
        })?;
        kept.push((name.to_owned(), value));
    }
    Ok(kept)
}

fn concerns_us(name: &str) -> bool {
    name == HTTP_PEERS_SYNONYM || name == OTLP_ENDPOINT || section_and_key(name).is_some()
}

/// `LATTICE_STORE__EPOCH_MS` is `store`, `epoch_ms`; a variable without `__` is not configuration.
fn section_and_key(variable: &str) -> Option<(String, String)> {
    let (section, key) = variable.strip_prefix("LATTICE_")?.split_once("__")?;
    Some((section.to_lowercase(), key.to_lowercase()))
}

pub(super) fn load(sources: Sources) -> Result<Config, Error> {
    let mut config = Config::default();
    config.node.name = sources.host_name.unwrap_or_else(host_name);
    // Empty until a layer sets it: the default follows `data_dir`.
    config.node.key_file = Default::default();

    if let Some((origin, text)) = &sources.file {
        apply_file(&mut config, origin, text)?;
    }
    apply_environment(&mut config, sources.env)?;
    for flag in &sources.sets {
        apply_flag(&mut config, flag)?;
    }

    if config.node.key_file.as_os_str().is_empty() {
        config.node.key_file = config.node.data_dir.join("node.key");
    }
    config.validate()?;
    Ok(config)
}

fn apply_file(config: &mut Config, origin: &str, text: &str) -> Result<(), Error> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::Syntax { origin: origin.to_owned(), line, message: error.message().replace('\n', ", ") }
    })?;
    for (section, value) in table {
        let toml::Value::Table(entries) = value else {
            return Err(not_a_section(origin, &section));
        };
        for (key, value) in entries {
            apply(config, origin, &section, &key, &Raw::Toml(value))?;
        }
        // An empty unknown section is unknown, too.
        check_section(origin, &section)?;
    }
    Ok(())
}

fn apply_environment(config: &mut Config, env: Vec<(String, String)>) -> Result<(), Error> {
    let mut endpoint = None;
    let mut variables = Vec::new();
    for (name, value) in env {
        if name == HTTP_PEERS_SYNONYM {
            // Applied before the variables of its own section: they beat it.
            apply(config, &name, "coordinator", "http_peers", &Raw::Text(value))?;
        } else if name == OTLP_ENDPOINT {
            endpoint = Some(value);
        } else if let Some((section, key)) = section_and_key(&name) {
            variables.push((name, section, key, value));
        }
    }
    for (name, section, key, value) in variables {
        apply(config, &name, &section, &key, &Raw::Text(value))?;
    }
    if let (None, Some(endpoint)) = (&config.telemetry.otlp_endpoint, endpoint) {
        apply(config, OTLP_ENDPOINT, "telemetry", "otlp_endpoint", &Raw::Text(endpoint))?;
    }
    Ok(())
}

fn apply_flag(config: &mut Config, flag: &str) -> Result<(), Error> {
    let parts = flag.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
    let Some(((section, key), value)) = parts else {
        return Err(Error::Unknown {
            origin: format!("--set {flag}"),
            what: "must be section.key=value, like store.epoch_ms=500".into(),
        });
    };
    let origin = format!("--set {section}.{key}");
    apply(config, &origin, section.trim(), key.trim(), &Raw::Text(value.to_owned()))
}

fn apply(config: &mut Config, origin: &str, section: &str, key: &str, raw: &Raw) -> Result<(), Error> {
    check_section(origin, section)?;
    match keys::set(config, section, key, raw) {
        Some(Ok(())) => Ok(()),
        Some(Err(problem)) => {
            let index = problem.index.map(|index| format!("[{index}]")).unwrap_or_default();
            Err(Error::Parse {
                origin: origin.to_owned(),
                field: format!("{section}.{key}{index}"),
                value: problem.value,
                expected: problem.expected,
            })
        }
        None => Err(Error::Unknown {
            origin: origin.to_owned(),
            what: format!("unknown key {section}.{key}, did you mean {}?", keys::nearest_key(section, key)),
        }),
    }
}

fn check_section(origin: &str, section: &str) -> Result<(), Error> {
    if keys::keys_of(section).is_some() {
        return Ok(());
    }
    let nearest = keys::nearest_section(section);
    Err(Error::Unknown {
        origin: origin.to_owned(),
        what: format!("unknown section {section}, did you mean {nearest}?"),
    })
}

fn not_a_section(origin: &str, name: &str) -> Error {
    let what = match keys::keys_of(name) {
        Some(_) => format!("{name} must be a section: [{name}]"),
        None => format!("{name} stands in no section, did you mean {}?", keys::nearest_anywhere(name)),
    };
    Error::Unknown { origin: origin.to_owned(), what }
}

/// The name of this host, for people; `localhost` where it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
