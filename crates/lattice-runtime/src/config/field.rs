//! How one configuration value is read from TOML or text, and printed.
//!
//! The same field arrives as a TOML value (file) or as text (environment, flag). Both forms are parsed
//! here, per type, so that a layer knows nothing of types and a type nothing of layers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::quote;
use super::types::{Engine, Listen, LogFormat, Mode, PublicKey};
use crate::duration;

/// A value as its layer has it.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    /// From the file.
    Toml(toml::Value),
    /// From a variable or a flag; lists are comma-separated, an empty text is "none".
    Text(String),
}

/// Why a value could not be read: which element of a list, what it is, what would be right.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) index: Option<usize>,
    pub(super) value: String,
    pub(super) expected: String,
}

/// A type that a configuration field may have.
pub(super) trait Field: Sized {
    fn parse(raw: &Raw) -> Result<Self, Problem>;
    /// `None`: the key is left out.
    fn to_toml(&self) -> Option<toml::Value>;
}

impl Raw {
    fn problem(&self, expected: impl Into<String>) -> Problem {
        let value = match self {
            Self::Toml(toml::Value::String(text)) | Self::Text(text) => quote(text),
            Self::Toml(toml::Value::Array(_)) => "a list".into(),
            Self::Toml(toml::Value::Table(_)) => "a table".into(),
            Self::Toml(other) => other.to_string(),
        };
        Problem { index: None, value, expected: expected.into() }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(toml::Value::String(text)) | Self::Text(text) => Some(text),
            Self::Toml(_) => None,
        }
    }

    /// Reads a field whose form is text in every layer.
    fn parse_text<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        self.text().and_then(parse).ok_or_else(|| self.problem(expected))
    }
}

fn string(value: impl Into<String>) -> Option<toml::Value> {
    Some(toml::Value::String(value.into()))
}

impl Field for String {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        raw.parse_text("must be text that is not empty", |text| (!text.is_empty()).then(|| text.to_owned()))
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(self)
    }
}

impl Field for PathBuf {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        raw.parse_text("must be a path", |text| (!text.is_empty()).then(|| text.into()))
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(self.to_string_lossy())
    }
}

impl Field for bool {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        let value = match raw {
            Raw::Toml(toml::Value::Boolean(value)) => Some(*value),
            Raw::Toml(_) => None,
            Raw::Text(text) => text.parse().ok(),
        };
        value.ok_or_else(|| raw.problem("must be true or false"))
    }
    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::Boolean(*self))
    }
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn parse(raw: &Raw) -> Result<Self, Problem> {
                let value = match raw {
                    Raw::Toml(toml::Value::Integer(value)) => Self::try_from(*value).ok(),
                    Raw::Toml(_) => None,
                    Raw::Text(text) => text.parse().ok(),
                };
                value.ok_or_else(|| raw.problem("must be a whole number"))
            }
            fn to_toml(&self) -> Option<toml::Value> {
                Some(toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)))
            }
        }
    )*};
}
integer_field!(u64, u32, usize);

impl Field for Duration {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        raw.parse_text(
            "must be a duration with one unit, like \"500ms\", \"5s\", \"2m\" or \"1h\"",
            duration::parse,
        )
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(duration::print(*self))
    }
}

impl Field for SocketAddr {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        raw.parse_text("must be an IP address with a port, like 0.0.0.0:8080", |text| text.parse().ok())
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(self.to_string())
    }
}

impl Field for Listen {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        let text =
            raw.parse_text(&super::ListenError::Malformed.to_string(), |text| Some(text.to_owned()))?;
        text.parse().map_err(|error: super::ListenError| raw.problem(error.to_string()))
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(self.to_string())
    }
}

macro_rules! choice_field {
    ($type:ty, $expected:literal, $($name:literal => $variant:path),*) => {
        impl Field for $type {
            fn parse(raw: &Raw) -> Result<Self, Problem> {
                raw.parse_text($expected, |text| match text {
                    $($name => Some($variant),)*
                    _ => None,
                })
            }
            fn to_toml(&self) -> Option<toml::Value> {
                match self {
                    $($variant => string($name),)*
                }
            }
        }
    };
}
choice_field!(Mode, "must be auto, p2p or http", "auto" => Mode::Auto, "p2p" => Mode::P2p, "http" => Mode::Http);
choice_field!(
    Engine,
    "must be sled, redb or memory",
    "sled" => Engine::Sled,
    "redb" => Engine::Redb,
    "memory" => Engine::Memory
);
choice_field!(LogFormat, "must be text or json", "text" => LogFormat::Text, "json" => LogFormat::Json);

impl Field for PublicKey {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        raw.parse_text("must be a public key of 64 hex characters", |text| {
            let mut key = [0; 32];
            hex::decode_to_slice(text, &mut key).ok()?;
            Some(key)
        })
    }
    fn to_toml(&self) -> Option<toml::Value> {
        string(hex::encode(self))
    }
}

impl<T: Field> Field for Vec<T> {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        let elements: Vec<Raw> = match raw {
            Raw::Toml(toml::Value::Array(values)) => values.iter().cloned().map(Raw::Toml).collect(),
            Raw::Toml(_) => return Err(raw.problem("must be a list, like [\"...\"]")),
            Raw::Text(text) if text.trim().is_empty() => Vec::new(),
            Raw::Text(text) => text.split(',').map(|element| Raw::Text(element.trim().to_owned())).collect(),
        };
        let mut list = Self::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            list.push(T::parse(element).map_err(|problem| Problem { index: Some(index), ..problem })?);
        }
        Ok(list)
    }
    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::Array(self.iter().filter_map(Field::to_toml).collect()))
    }
}

impl<T: Field> Field for Option<T> {
    fn parse(raw: &Raw) -> Result<Self, Problem> {
        if raw.text() == Some("") {
            return Ok(None);
        }
        T::parse(raw).map(Some)
    }
    fn to_toml(&self) -> Option<toml::Value> {
        self.as_ref().and_then(Field::to_toml)
    }
}
