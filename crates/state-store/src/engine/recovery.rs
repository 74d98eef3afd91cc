//! After a loss: the store recovers until its peers have filled it, or an operator accepts what is lost.

use std::ops::ControlFlow;

use bytes::Bytes;
use lattice_core::model::Incarnation;

use super::damage::line;
use super::open::{put, take};
use super::records::parse_kept;
use super::sealing::CHUNK;
use super::{Engine, Error, Now};
use crate::format::{keys, record};
use crate::storage::Batch;

impl Engine {
    /// Gives up what is damaged: the keys noted read as what is left of them, and what only the tree remembers of
    /// them is forgotten, under a new incarnation. The store recovers no more. Returns how many keys were noted.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn accept_loss(&mut self, now: Now) -> Result<u64, Error> {
        let mut accepted = 0;
        loop {
            let mut batch = Batch::default();
            take(self.storage(), &[keys::DAMAGED], &[keys::DAMAGED + 1], |at, _| {
                batch.remove(Bytes::copy_from_slice(at));
                accepted += 1;
                // The record itself may be there, and not read.
                let current = [&[keys::CURRENT], &at[1..]].concat();
                let framed = self.storage().get(&current)?;
                if framed.is_some_and(|framed| parse_kept(&current, framed).is_err()) {
                    batch.remove(current);
                }
                let full = batch.len() >= CHUNK;
                Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if batch.is_empty() {
                break;
            }
            self.commit_batch(&mut batch)?;
        }
        let lost = self.damaged > 0 || self.overflow;
        (self.damaged, self.overflow) = (0, false);
        self.damage_generation += 1;
        let mut batch = Batch::default();
        put(&mut batch, "identity", &self.identity());
        batch.remove(keys::meta("recovering"));
        self.commit_batch(&mut batch)?;
        self.recovering = None;
        self.publish();
        if lost {
            self.rebuild_begin(self.seal_clock.time(now).unwrap_or(now.wall))?;
        }
        Ok(accepted)
    }

    /// The store does not know what it lost, from now on and over restarts, until [`Engine::recovered`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin_recovering(&mut self, reason: &str, now: Now) -> Result<(), Error> {
        let recovering = record::Recovering { since_ms: now.wall.millis(), reason: line(reason) };
        let mut batch = Batch::default();
        put(&mut batch, "recovering", &recovering);
        self.commit_batch(&mut batch)?;
        self.recovering = Some(recovering);
        self.publish();
        Ok(())
    }

    /// Peers have filled the store again, while it had this incarnation. Returns whether that ended anything.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn recovered(&mut self, incarnation: Incarnation) -> Result<bool, Error> {
        if incarnation != self.incarnation || self.recovering.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.remove(keys::meta("recovering"));
        self.commit_batch(&mut batch)?;
        self.recovering = None;
        self.publish();
        Ok(true)
    }

    /// Why the store recovers; `None` when it does not.
    pub fn recovering(&self) -> Option<&str> {
        self.recovering.as_ref().map(|recovering| recovering.reason.as_str())
    }
}
