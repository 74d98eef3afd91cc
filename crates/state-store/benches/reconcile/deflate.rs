//! What compression of answers would save, and take: deflate at its fastest, each answer by itself.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Result, ensure};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::Serialize;

use crate::usage::cpu;

/// All answers of a pull, deflated.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Deflated {
    /// What they took before.
    before: u64,
    /// What they take.
    pub(crate) bytes: u64,
    /// CPU time of the one who deflates, and of the one who inflates.
    pub(crate) cpu: (Duration, Duration),
}

impl Deflated {
    pub(crate) fn add(&mut self, answer: &[u8]) -> Result<()> {
        let began = cpu()?;
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(answer)?;
        let deflated = encoder.finish()?;
        let ended = cpu()?;
        let mut inflated = Vec::with_capacity(answer.len());
        DeflateDecoder::new(&deflated[..]).read_to_end(&mut inflated)?;
        ensure!(inflated == answer, "what was deflated inflates to something else");
        self.cpu.0 += ended.saturating_sub(began);
        self.cpu.1 += cpu()?.saturating_sub(ended);
        self.before += answer.len() as u64;
        // What does not get shorter is sent as it is.
        self.bytes += deflated.len().min(answer.len()) as u64;
        Ok(())
    }

    /// The bytes per second of a line on which it takes as long to send what is saved as to save it: only on slower
    /// ones it pays. `None` when nothing is saved, or no time was seen to pass.
    pub(crate) fn pays_below(&self) -> Option<f64> {
        let (saved, time) = (self.before - self.bytes, (self.cpu.0 + self.cpu.1).as_secs_f64());
        (saved > 0 && time > 0.0).then(|| saved as f64 / time)
    }
}
