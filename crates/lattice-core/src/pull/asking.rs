//! The question that a pull waits for: one at a time, each with a number and a deadline.

use super::{Effect, Failed, Outcome, Pull};
use crate::exchange::{Ask, PullPart, Request};
use crate::pull::Cause;
use crate::time::Monotonic;

/// The question under way.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) number: u64,
    pub(super) ask: Ask,
    pub(super) asked: Monotonic,
    pub(super) until: Monotonic,
    /// It was asked again with a fresh challenge.
    pub(super) challenged: bool,
}

impl Pull {
    /// Asks the peer, unless it has kept us waiting for too long with too little.
    pub(super) fn ask(
        &mut self,
        now: Monotonic,
        ask: Ask,
        challenged: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failed> {
        if self.pace.is_over() {
            // So little is no reason to begin again at once.
            self.verified_new = false;
            let patience = self.config.patience.as_millis();
            let detail = format!("waited {patience} ms in all for answers that bring too little");
            return Err(Failed::new(Outcome::TimedOut, detail));
        }
        self.number += 1;
        let (number, until) = (self.number, now + self.config.pause_max + self.config.request_timeout);
        effects.push(self.question(ask.clone(), false));
        self.asking = Some(Asking { number, ask, asked: now, until, challenged });
        Ok(())
    }

    pub(super) fn question(&self, ask: Ask, last: bool) -> Effect {
        let part = PullPart { id: self.config.id.0, in_kind: self.config.cause == Cause::InKind };
        // A repair says nothing of what the peer may lack: it is not answered in kind.
        let pull = self.seek.is_none().then_some(part);
        Effect::Ask {
            number: self.number,
            request: Request { announcement: None, pull, ask },
            announce: self.rounds == 0 && pull.is_some(),
            path: self.path,
            last,
        }
    }

    pub(super) fn timed_out(&self) -> Failed {
        let timeout = self.config.request_timeout.as_millis();
        Failed::new(Outcome::TimedOut, format!("no answer within {timeout} ms"))
    }
}
