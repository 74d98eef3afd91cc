//! What is wrong with a wire message, and where in it.

use std::fmt;

/// A wire message that is not a value of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The way to the field, like `entries[3].version.writer`; empty for the message as a whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Invalid {
    /// `problem` with `field`.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// A message field or a oneof that has to be there.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "is missing")
    }

    /// The same, seen from the message whose field `name` it is about.
    #[must_use]
    pub fn within(mut self, name: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => name.to_owned(),
            field => format!("{name}.{field}"),
        };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.problem),
            field => write!(f, "{field}: {}", self.problem),
        }
    }
}

impl From<Invalid> for tonic::Status {
    /// `INVALID_ARGUMENT`, with the field and the problem as message.
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// Tells an error where it happened.
pub trait InField<T> {
    /// In the field `name`.
    ///
    /// # Errors
    /// The same one, with the field before its own.
    fn in_field(self, name: &str) -> Result<T, Invalid>;

    /// In element `index` of the field `name`.
    ///
    /// # Errors
    /// The same one, with field and index before its own.
    fn in_item(self, name: &str, index: usize) -> Result<T, Invalid>;
}

impl<T> InField<T> for Result<T, Invalid> {
    fn in_field(self, name: &str) -> Self {
        self.map_err(|invalid| invalid.within(name))
    }

    fn in_item(self, name: &str, index: usize) -> Self {
        self.map_err(|invalid| invalid.within(&format!("{name}[{index}]")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_from_the_outside_in() {
        let leaf: Result<(), Invalid> = Err(Invalid::new("writer", "a node is 32 bytes, got 31"));
        let error = leaf.in_field("version").in_item("entries", 3).unwrap_err();
        assert_eq!(error.field, "entries[3].version.writer");
        assert_eq!(error.to_string(), "entries[3].version.writer: a node is 32 bytes, got 31");
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "entries[3].version.writer: a node is 32 bytes, got 31");
    }

    #[test]
    fn a_whole_message_takes_the_name_of_its_field() {
        let whole = Invalid::new("", "is not a position");
        assert_eq!(whole.to_string(), "is not a position");
        assert_eq!(whole.within("position").to_string(), "position: is not a position");
    }
}
