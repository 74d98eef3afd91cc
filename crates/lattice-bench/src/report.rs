//! What a run found out: the table, the aims, and where both are written.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::table::{document, table};

/// A line of a table with `N` columns, and of the JSON.
pub trait Row<const N: usize>: Serialize {
    /// What the columns are called; the first two hold words, the others numbers.
    const COLUMNS: [&'static str; N];

    /// What stands in them.
    fn cells(&self) -> [String; N];
}

/// What the numbers should be.
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    /// What is wanted.
    pub aim: String,
    /// What there is.
    pub measured: String,
    /// Whether that is it.
    pub met: bool,
}

impl Aim {
    const COLUMNS: [&'static str; 3] = ["aim", "measured", "met"];

    fn cells(&self) -> [String; 3] {
        [self.aim.clone(), self.measured.clone(), if self.met { "yes" } else { "no" }.to_owned()]
    }
}

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub struct Report<R> {
    /// Where and when.
    #[serde(flatten)]
    pub machine: Machine,
    /// Why the numbers are not for publishing; empty when they are.
    pub caveats: Vec<String>,
    /// The table.
    pub rows: Vec<R>,
    /// What the numbers should be.
    pub aims: Vec<Aim>,
}

/// Where a document keeps what a program writes, and what a new one is called.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The lines before and after it.
    pub marks: (&'static str, &'static str),
    /// The title of a document that is new.
    pub title: &'static str,
}

impl Place {
    /// Finds out before anything is measured whether [`Report::publish`] can write.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn check(self, json: Option<&Path>, markdown: Option<&Path>) -> Result<()> {
        for (option, path) in [("--json", json), ("--markdown", markdown)] {
            let Some(named) = path else { continue };
            let path = in_checkout(named);
            let folder = path.parent().unwrap_or(Path::new("/"));
            match fs::File::options().append(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => Ok(()),
                opened => opened.map(drop),
            }
            .with_context(|| format!("{option}: write {}", named.display()))?;
        }
        Ok(())
    }
}

impl<R> Report<R> {
    /// Prints the tables; writes them between the marks of the document `markdown` (or as a new one), and all
    /// numbers to the file `json`, where these are given.
    ///
    /// # Errors
    /// When a file cannot be written, or the document is there and has no marks.
    pub fn publish<const N: usize>(
        &self,
        place: Place,
        json: Option<&Path>,
        markdown: Option<&Path>,
    ) -> Result<()>
    where
        R: Row<N>,
    {
        let text = self.markdown();
        print!("{text}");
        if let Some(path) = markdown {
            write(place, &text, &in_checkout(path))
                .with_context(|| format!("--markdown: write {}", path.display()))?;
        }
        if let Some(path) = json {
            let json = serde_json::to_string_pretty(self)?;
            fs::write(in_checkout(path), json + "\n")
                .with_context(|| format!("--json: write {}", path.display()))?;
        }
        Ok(())
    }

    /// The tables, readable as they are and as Markdown.
    fn markdown<const N: usize>(&self) -> String
    where
        R: Row<N>,
    {
        let mut text = String::new();
        for line in self.machine.lines().iter().chain(&self.caveats) {
            let _ = writeln!(text, "- {line}");
        }
        text.push('\n');
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        table(&mut text, &R::COLUMNS, &rows);
        if !self.aims.is_empty() {
            text.push('\n');
            let rows: Vec<_> = self.aims.iter().map(Aim::cells).collect();
            table(&mut text, &Aim::COLUMNS, &rows);
        }
        text
    }
}

/// What `path` names for whoever is at the top of the checkout: cargo starts a benchmark in the folder of its crate.
fn in_checkout(path: &Path) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    top.join(path)
}

/// Writes `text` between the marks of a document, or as a new one.
///
/// # Errors
/// When the file cannot be written, or is there and has no marks.
pub fn write(place: Place, text: &str, path: &Path) -> Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(document) => Some(document),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let document = document(place.marks, place.title, before.as_deref(), text);
    let document = document.with_context(|| format!("it has no lines {:?} to write between", place.marks))?;
    Ok(fs::write(path, document)?)
}
