//! A copy of the sources, in which bugs are planted, and the simulation that is built of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use lattice_tests::planted::Bug;
use lattice_tests::simulation::Invariant;
use serde::Deserialize;

/// A simulation that takes longer runs in circles: a bug may do that.
const RUN_MAX: Duration = Duration::from_secs(1_800);
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The copy.
pub(crate) struct Checkout {
    root: PathBuf,
    sources: PathBuf,
    target: PathBuf,
}

/// A simulation that was built.
pub(crate) struct Built {
    program: PathBuf,
    /// Where its summary goes.
    summary: PathBuf,
}

/// What it came to.
pub(crate) enum Simulated {
    /// Everything held.
    Held,
    /// Something did not; this was the first seed.
    Broken {
        /// Which.
        seed: u64,
        /// What did not hold, in words.
        invariant: String,
    },
}

#[derive(Deserialize)]
struct Summary {
    failures: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    seed: u64,
    invariant: String,
}

impl Checkout {
    /// Copies what git knows of `root`, and what is new there, to `dir`. What is the same already is left alone, so
    /// that it is not compiled anew.
    pub(crate) fn new(root: &Path, dir: &Path) -> Result<Self> {
        let (sources, target) = (dir.join("sources"), dir.join("target"));
        let list = Command::new("git")
            .current_dir(root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("run git")?;
        if !list.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&list.stderr).trim());
        }
        let names = String::from_utf8(list.stdout).context("names that are UTF-8")?;
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            // A file that git knows may be deleted in the folder.
            if let Ok(text) = fs::read(root.join(name)) {
                write(&sources.join(name), &text)?;
            }
        }
        Ok(Self { root: root.to_owned(), sources, target })
    }

    /// Makes a bug's edits.
    pub(crate) fn plant(&self, bug: &Bug) -> Result<()> {
        for (file, text) in bug.edited(&self.root)? {
            write(&self.sources.join(file), text.as_bytes())?;
        }
        Ok(())
    }

    /// Takes them back.
    pub(crate) fn restore(&self, bug: &Bug) -> Result<()> {
        for edit in &bug.edits {
            let text = fs::read(self.root.join(&edit.file)).with_context(|| edit.file.clone())?;
            write(&self.sources.join(&edit.file), &text)?;
        }
        Ok(())
    }

    /// Builds the simulation as the sources are now.
    pub(crate) fn build(&self) -> Result<Built> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(&self.sources)
            .args(["build", "--quiet", "--locked", "-p", "lattice-tests", "--features", "programs"])
            .args(["--bin", "simulate", "--target-dir"])
            .arg(&self.target)
            .output()
            .context("run cargo")?;
        if !built.status.success() {
            bail!("the simulation does not build:\n{}", String::from_utf8_lossy(&built.stderr));
        }
        let program = self.target.join("debug/simulate");
        Ok(Built { program, summary: self.target.join("simulate.json") })
    }

    /// The commit, and whether the sources differ from it.
    pub(crate) fn commit(&self) -> String {
        let git = |arguments: &[&str]| {
            let ran = Command::new("git").current_dir(&self.root).args(arguments).output().ok()?;
            ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
        match changed.is_none_or(|changed| changed.is_empty()) {
            true => commit,
            false => format!("{commit} with changes"),
        }
    }
}

impl Built {
    /// Keeps it under another name, since the next one is built in its place.
    pub(crate) fn keep(self, name: &str) -> Result<Self> {
        let program = self.program.with_file_name(name);
        fs::copy(&self.program, &program).context("keep what was built")?;
        Ok(Self { program, ..self })
    }

    /// Runs so many seeds from `first` on, until something is broken.
    pub(crate) fn run(&self, first: u64, seeds: u64) -> Result<Simulated> {
        let _ = fs::remove_file(&self.summary);
        let mut running = Command::new(&self.program)
            .args(["--until-broken", "--first-seed", &first.to_string(), "--seeds", &seeds.to_string()])
            .arg("--json")
            .arg(&self.summary)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("run the simulation")?;
        let began = Instant::now();
        while running.try_wait().context("wait for the simulation")?.is_none() {
            if began.elapsed() > RUN_MAX {
                running.kill().context("end the simulation")?;
                running.wait().context("end the simulation")?;
                bail!("the simulation did not end within {RUN_MAX:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let summary = fs::read(&self.summary).context("the simulation ended without a summary")?;
        let summary: Summary = serde_json::from_slice(&summary).context("read its summary")?;
        Ok(match summary.failures.into_iter().next() {
            None => Simulated::Held,
            Some(Failure { seed, invariant }) => Simulated::Broken { seed, invariant: in_words(invariant) },
        })
    }
}

fn in_words(name: String) -> String {
    let known = Invariant::ALL
        .into_iter()
        .find(|known| serde_json::to_value(known).ok() == Some(name.clone().into()));
    known.map_or(name, |known| known.name().to_owned())
}

/// Writes a file that is not the same already.
fn write(path: &Path, text: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
