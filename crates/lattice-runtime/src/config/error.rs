//! Why a configuration was refused, in one line that says where to look and what would be right.

use std::path::PathBuf;

/// A configuration that is refused. Each message is one line and names the layer it came from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: line {line}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A section, key, variable or flag that has no meaning.
    #[error("{origin}: {what}")]
    Unknown {
        /// The file, variable or flag.
        origin: String,
        /// What is unknown, and the nearest known name.
        what: String,
    },
    /// A value that cannot be read as its field's type.
    #[error("{origin}: {field} is {value}: {expected}")]
    Parse {
        /// The file, variable or flag.
        origin: String,
        /// The field, as in `node.trusted_keys[2]`.
        field: String,
        /// The value, quoted where it is text.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A value that is well formed and still wrong, by itself or beside another.
    #[error("{field} is {value}: {expected}")]
    Value {
        /// The field, as in `sensor.bootstrap[1]`.
        field: String,
        /// The value, quoted where it is text.
        value: String,
        /// What would be right.
        expected: String,
    },
}

/// A quoted value in a message is cut after this many characters.
const VALUE_CHARS_MAX: usize = 80;

impl Error {
    /// Refuses a value that only its service could judge: `field` like `sensor.bootstrap[1]`, the text as
    /// configured, and what would be right (`must be a multiaddr like /ip4/10.0.0.1/tcp/9000`).
    pub fn value(field: impl Into<String>, value: impl AsRef<str>, expected: impl Into<String>) -> Self {
        Self::Value { field: field.into(), value: quote(value.as_ref()), expected: expected.into() }
    }
}

/// `text` in quotes, on one line, cut where it is long.
pub(super) fn quote(text: &str) -> String {
    if text.chars().count() <= VALUE_CHARS_MAX {
        return format!("{text:?}");
    }
    let cut: String = text.chars().take(VALUE_CHARS_MAX).collect();
    format!("{cut:?}...")
}
