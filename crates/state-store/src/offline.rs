//! Checks a stopped store, and lets an operator accept what it lost.

use std::path::PathBuf;

use lattice_runtime::{Clock, Config};

use crate::engine::{self, DamagedEntry, Engine, Finding, Read};
use crate::opening::Opened;
pub use crate::stopped::Error;
use crate::stopped::{Stopped, set_aside_in};
use crate::{salvage, service, writer};

/// How many damaged keys are read at a time.
const PAGE: usize = 1_000;

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What keeps the database from being opened; the next start sets it aside and salvages it.
    pub places: Vec<String>,
    /// What this check found, and noted.
    pub findings: Vec<Finding>,
    /// All keys that are noted as damaged.
    pub damaged: Vec<DamagedEntry>,
    /// Why the store recovers; `None` when it does not.
    pub recovering: Option<String>,
    /// What was read.
    pub read: Read,
    /// Folders that were set aside, and how many lines their reports have.
    pub set_aside: Vec<(PathBuf, usize)>,
}

impl Report {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        let found = !self.places.is_empty() || !self.findings.is_empty() || !self.damaged.is_empty();
        !found && self.recovering.is_none()
    }
}

/// Checks all of a stopped store. What is found is noted in it, so that it is not served when the node runs again.
/// `progress` hears how much is done, in thousandths.
///
/// # Errors
/// [`Error`], when it cannot be checked.
pub fn check(config: &Config, mut progress: impl FnMut(u32, Read)) -> Result<Report, Error> {
    let store = Stopped::of(config)?;
    let mut report = Report::default();
    for (folder, _) in set_aside_in(&store.folder)? {
        let lines = salvage::report(&folder).map_or(0, |report| report.lines().count());
        report.set_aside.push((folder, lines));
    }
    let opened = store.opening(|opening| opening.examine(service::incarnations()))?;
    let Opened { mut engine, damaged } = match opened {
        Ok(opened) => opened,
        Err(places) => return Ok(Report { places, ..report }),
    };
    match check_all(&mut engine, &store.clock, &mut report, &mut progress) {
        Ok(()) => {}
        // The storage engine has found its files damaged: that is a finding, too.
        Err(error) => match &*damaged.borrow() {
            Some(reason) => report.places.push(reason.clone()),
            None => return Err(error.into()),
        },
    }
    report.recovering = engine.recovering().map(str::to_owned);
    Ok(report)
}

fn check_all(
    engine: &mut Engine,
    clock: &Clock,
    report: &mut Report,
    progress: &mut impl FnMut(u32, Read),
) -> Result<(), engine::Error> {
    let mut check = engine.reader().check();
    loop {
        let more = check.step()?;
        engine.look_into_suspicions(writer::now(clock))?;
        report.findings.append(&mut engine.take_findings());
        report.read = check.read();
        progress(check.permille(), report.read);
        if !more {
            break;
        }
    }
    // What was looked into last may have led on.
    engine.look_into_suspicions(writer::now(clock))?;
    report.findings.append(&mut engine.take_findings());
    let mut after = Vec::new();
    loop {
        let page = engine.reader().damaged(&after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.key.as_bytes().to_vec();
        report.damaged.extend(page);
    }
}

/// Accepts what a stopped store lost: damaged keys read as what is left of them, and the store recovers no more.
/// Returns how many damaged keys were given up.
///
/// # Errors
/// [`Error`].
pub fn accept_loss(config: &Config) -> Result<u64, Error> {
    let store = Stopped::of(config)?;
    let mut opened = store.opening(|opening| opening.open(service::incarnations))?;
    Ok(opened.engine.accept_loss(writer::now(&store.clock))?)
}
