//! Values that follow their files: tokens and certificates are renewed while a node runs.
//!
//! Files are read again every [`EVERY`] rather than watched: it is cheap for small files, and works for
//! those that are replaced by a rename, through a link, or on a file system that tells of no changes. What
//! cannot be used is logged once, and the value before stays.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config;

/// How often files are read again.
pub const EVERY: Duration = Duration::from_secs(2);

type Load<T> = Box<dyn Fn() -> Result<T, config::Error> + Send + Sync>;

/// A value that was read from files, and is read again when they change.
pub struct Reloaded<T> {
    /// The configuration key of the file, for the log.
    field: &'static str,
    load: Load<T>,
    current: RwLock<Arc<T>>,
    /// What the log last said of files that cannot be used; empty when they can.
    refusal: Mutex<String>,
}

/// What reading the files again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They say what they said.
    None,
    /// They say something else, which is in use now.
    Taken,
    /// They cannot be used: the value before stays.
    Refused,
}

impl<T: PartialEq + Send + Sync + 'static> Reloaded<T> {
    /// Reads the value for the first time. `field` is the configuration key of its file.
    ///
    /// # Errors
    /// What `load` refuses.
    pub fn load(
        field: &'static str,
        load: impl Fn() -> Result<T, config::Error> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, config::Error> {
        let current = RwLock::new(Arc::new(load()?));
        Ok(Arc::new(Self { field, load: Box::new(load), current, refusal: Mutex::default() }))
    }

    /// The value now.
    pub fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again. Blocks on the disk.
    pub fn reload(&self) -> Change {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.load)() {
            Ok(value) => {
                refusal.clear();
                if value == *self.current() {
                    return Change::None;
                }
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                tracing::info!("{} was read again and is in use", self.field);
                Change::Taken
            }
            Err(error) => {
                let error = error.to_string();
                if *refusal != error {
                    tracing::warn!("{error}; what was read before stays in use");
                    *refusal = error;
                }
                Change::Refused
            }
        }
    }

    /// Reads the files again every [`EVERY`], until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let this = self.clone();
            // Ends without an outcome only when the runtime is going.
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
        }
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    /// Without the value, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("field", &self.field).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_change_is_taken_and_a_bad_one_is_not() {
        let file = Arc::new(Mutex::new("1"));
        let source = file.clone();
        let number = Reloaded::load("gateway.token_file", move || {
            let text = *source.lock().unwrap();
            text.parse::<u32>()
                .map_err(|_| config::Error::value("gateway.token_file", text, "must be a number"))
        })
        .unwrap();
        for (text, change, current) in [
            ("1", Change::None, 1),
            ("2", Change::Taken, 2),
            ("two", Change::Refused, 2),
            ("two", Change::Refused, 2),
            ("2", Change::None, 2),
            ("3", Change::Taken, 3),
        ] {
            *file.lock().unwrap() = text;
            assert_eq!((number.reload(), *number.current()), (change, current), "{text}");
        }
    }

    #[test]
    fn what_is_bad_from_the_start_is_refused() {
        let refused = Reloaded::<u32>::load("a.b", || Err(config::Error::value("a.b", "x", "must be y")));
        assert_eq!(refused.unwrap_err().to_string(), "a.b is \"x\": must be y");
    }
}
