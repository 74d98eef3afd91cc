//! Bugs that are planted to see that the simulation finds them: `planted.toml`, and what it takes to plant one.
//!
//! Production code knows nothing of this: an edit is made in a copy of the sources. One that has lost its place is
//! an error, never a bug that nobody planted.

use std::path::Path;
use std::{fs, io};

use serde::Deserialize;

/// One bug.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bug {
    /// What it is called.
    pub name: String,
    /// Which promise it breaks.
    pub breaks: String,
    /// All that it takes.
    #[serde(rename = "edit")]
    pub edits: Vec<Edit>,
}

/// One change of one file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// From the root of the workspace.
    pub file: String,
    /// Occurs exactly once in it.
    pub find: String,
    /// Stands there instead.
    pub replace: String,
}

/// Why a bug cannot be planted.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read or written.
    File(String, io::Error),
    /// The text is not there, or more than once.
    Place {
        /// The bug.
        bug: String,
        /// The file.
        file: String,
        /// The text.
        find: String,
        /// How often it is there.
        found: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bugs {
    bug: Vec<Bug>,
}

/// All of them.
///
/// # Errors
/// What is wrong with the list.
pub fn bugs() -> Result<Vec<Bug>, toml::de::Error> {
    toml::from_str::<Bugs>(include_str!("../planted.toml")).map(|bugs| bugs.bug)
}

impl Bug {
    /// The files as they are with this bug: from the root of the workspace, and the text.
    ///
    /// # Errors
    /// Why it cannot be planted there.
    pub fn edited(&self, root: &Path) -> Result<Vec<(String, String)>, Error> {
        let mut files: Vec<(String, String)> = Vec::new();
        for Edit { file, find, replace } in &self.edits {
            let before = match files.iter().position(|(edited, _)| edited == file) {
                Some(index) => files.remove(index).1,
                None => {
                    fs::read_to_string(root.join(file)).map_err(|error| Error::File(file.clone(), error))?
                }
            };
            let found = before.matches(find.as_str()).count();
            if found != 1 {
                let (bug, file, find) = (self.name.clone(), file.clone(), find.clone());
                return Err(Error::Place { bug, file, find, found });
            }
            files.push((file.clone(), before.replacen(find.as_str(), replace, 1)));
        }
        Ok(files)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file, error) => write!(f, "{file}: {error}"),
            Self::Place { bug, file, find, found } => write!(
                f,
                "bug {bug:?} has lost its place in {file}: {find:?} occurs {found} times, and must occur once"
            ),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_planted_bug_has_its_place_in_the_sources() {
        let bugs = bugs().unwrap();
        let lost: Vec<String> =
            bugs.iter().filter_map(|bug| bug.edited(&root()).err()).map(|error| error.to_string()).collect();
        assert!(lost.is_empty(), "{}", lost.join("\n"));
        let names: BTreeSet<&String> = bugs.iter().map(|bug| &bug.name).collect();
        assert_eq!(names.len(), bugs.len(), "each has a name of its own");
        assert!(bugs.len() >= 12);
    }

    #[test]
    fn a_bug_without_its_place_is_an_error() {
        let edit = |find: &str| Edit {
            file: "tests/planted.toml".to_owned(),
            find: find.to_owned(),
            replace: String::new(),
        };
        let bug = |edits| Bug { name: "x".to_owned(), breaks: String::new(), edits };
        for find in ["[[bug]]", concat!("no such", " text")] {
            assert!(matches!(bug(vec![edit(find)]).edited(&root()), Err(Error::Place { .. })), "{find}");
        }
        assert!(matches!(
            bug(vec![Edit { file: "none".to_owned(), ..edit("x") }]).edited(&root()),
            Err(Error::File(..))
        ));
    }
}
