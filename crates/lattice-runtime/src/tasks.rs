//! Tasks with a name, an owner and somebody who looks at how they end.
//!
//! A service owns one [`TaskGroup`]. An *essential* task is one without which the service is not the
//! service: its failure cancels the group, so that the service stops in order instead of limping. Any other
//! task's failure is logged with its name. A panic counts as a failure in both cases.
//!
//! Nothing outlives its group: [`TaskGroup::join`] cancels, waits, then aborts what is left and names it,
//! and dropping the last handle aborts at once.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// The tasks of one service; cheap to clone. Dropping the last clone aborts them.
#[derive(Debug, Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

/// How a group failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An essential task returned an error.
    #[error("{group}: task {task} failed: {source:#}")]
    Failed {
        /// The group's name.
        group: &'static str,
        /// The task's name.
        task: String,
        /// What it returned.
        source: anyhow::Error,
    },
    /// An essential task panicked.
    #[error("{group}: task {task} panicked: {message}")]
    Panicked {
        /// The group's name.
        group: &'static str,
        /// The task's name.
        task: String,
        /// What it said.
        message: String,
    },
    /// Tasks did not end within the grace and were aborted.
    #[error("{group}: aborted after {grace:?}: {}", tasks.join(", "))]
    Unfinished {
        /// The group's name.
        group: &'static str,
        /// The names of those tasks.
        tasks: Vec<String>,
        /// How long they were waited for.
        grace: Duration,
    },
}

/// A group that is not kept alive, for those who only start tasks in it.
#[derive(Debug, Clone)]
pub(crate) struct WeakTaskGroup {
    inner: Weak<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    token: CancellationToken,
    idle: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, Running>,
    /// The first failure of an essential task.
    failure: Option<Error>,
    /// Set when the rest was aborted: what starts later is aborted, too.
    closed: bool,
    children: Vec<Weak<Inner>>,
}

#[derive(Debug)]
struct Running {
    name: Cow<'static, str>,
    kind: Kind,
    /// Empty only between registration and the return of `tokio::spawn`.
    handle: Option<AbortHandle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Essential,
    Ordinary,
    /// Work for a caller. To abort it at the end is what a socket's server does by closing, and no failure.
    Call,
}

impl TaskGroup {
    /// An empty group; `name` is the service's, for errors and logs.
    pub fn new(name: &'static str) -> Self {
        Self::with_token(name, CancellationToken::new())
    }

    /// A group that is cancelled with this one, and may be cancelled and joined before it. Joining this
    /// group joins the child, too. A failed essential task of the child cancels the child alone.
    pub fn child(&self, name: &'static str) -> Self {
        let child = Self::with_token(name, self.inner.token.child_token());
        let mut state = self.inner.lock();
        state.children.retain(|other| other.strong_count() > 0);
        state.children.push(Arc::downgrade(&child.inner));
        child
    }

    fn with_token(name: &'static str, token: CancellationToken) -> Self {
        let inner = Inner { name, token, idle: Notify::new(), state: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Cancelled when the group should end; every task watches it.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Starts a task whose failure or panic cancels the group's token and is returned by `join`. Ending
    /// with `Ok` is no failure.
    pub fn spawn_essential<F>(&self, name: impl Into<Cow<'static, str>>, task: F) -> AbortHandle
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.inner.start(name.into(), Kind::Essential, task)
    }

    /// Starts a task whose failure or panic is logged.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, task: F) -> AbortHandle
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.inner.start(name.into(), Kind::Ordinary, task)
    }

    /// Cancels the token, waits for all tasks, and aborts those that do not end within `grace`. Returns
    /// the first failure of an essential task, else the names of what was aborted.
    pub async fn join(&self, grace: Duration) -> Result<(), Error> {
        self.inner.token.cancel();
        let groups = self.inner.family();
        let all_idle = async {
            for group in &groups {
                group.idle().await;
            }
        };
        let in_time = tokio::time::timeout(grace, all_idle).await.is_ok();

        let mut aborted = Vec::new();
        for group in &groups {
            aborted.extend(group.abort());
        }
        if !in_time {
            // Aborted tasks end at their next await; a task that never awaits is left to the runtime.
            let _ = tokio::time::timeout(ABORT_GRACE, async {
                for group in &groups {
                    group.idle().await;
                }
            })
            .await;
        }
        for group in &groups {
            if let Some(failure) = group.lock().failure.take() {
                return Err(failure);
            }
        }
        if aborted.is_empty() {
            return Ok(());
        }
        Err(Error::Unfinished { group: self.inner.name, tasks: aborted, grace })
    }

    /// Waits for `shutdown` or for the group to be cancelled (as a failed essential task does), then joins:
    /// the body of most services' `run`.
    pub async fn run_until(&self, shutdown: CancellationToken, grace: Duration) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.inner.token.cancelled() => {}
        }
        self.join(grace).await
    }

    pub(crate) fn downgrade(&self) -> WeakTaskGroup {
        WeakTaskGroup { inner: Arc::downgrade(&self.inner) }
    }
}

/// How long aborted tasks get to be dropped.
const ABORT_GRACE: Duration = Duration::from_secs(1);

impl WeakTaskGroup {
    /// A place for work that a caller begins by itself, unless the group is ending or gone. The group waits for it
    /// like for a task.
    pub(crate) fn enter(&self) -> Option<Place> {
        let group = self.inner.upgrade().filter(|inner| !inner.token.is_cancelled())?;
        let entry = group.register(Cow::Borrowed("call"), Kind::Call);
        Some(Place { entry, group })
    }
}

/// A caller's work in the group it calls: first in the caller's own turn, and a task once it has to wait.
pub(crate) struct Place {
    entry: Entry,
    group: Arc<Inner>,
}

impl Place {
    /// Goes on as a task of the group; it is aborted at once when the group has ended meanwhile.
    pub(crate) fn spawn<F>(self, task: F) -> AbortHandle
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.group.run(self.entry, Cow::Borrowed("call"), Kind::Call, task)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; were it so, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start<F>(self: &Arc<Self>, name: Cow<'static, str>, kind: Kind, task: F) -> AbortHandle
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let entry = self.register(name.clone(), kind);
        self.run(entry, name, kind, task)
    }

    /// Runs a task at a place that it has.
    fn run<F>(&self, entry: Entry, name: Cow<'static, str>, kind: Kind, task: F) -> AbortHandle
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let id = entry.id;
        // The lock is not held here: a runtime that is shutting down drops the task, and so the entry,
        // within `spawn`.
        let handle = tokio::spawn(async move {
            let entry = entry;
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            if let Some(inner) = entry.group.upgrade() {
                inner.ended(&name, kind, outcome);
            }
        })
        .abort_handle();

        let mut state = self.lock();
        if state.closed {
            handle.abort();
        } else if let Some(running) = state.running.get_mut(&id) {
            running.handle = Some(handle.clone());
        }
        handle
    }

    fn register(self: &Arc<Self>, name: Cow<'static, str>, kind: Kind) -> Entry {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.running.insert(id, Running { name, kind, handle: None });
        Entry { group: Arc::downgrade(self), id }
    }

    fn ended(&self, name: &str, kind: Kind, outcome: Result<anyhow::Result<()>, Box<dyn Any + Send>>) {
        let (group, task) = (self.name, name.to_owned());
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(source)) => Error::Failed { group, task, source },
            Err(panic) => Error::Panicked { group, task, message: panic_message(&*panic).to_owned() },
        };
        if kind == Kind::Essential {
            let mut state = self.lock();
            if state.failure.is_none() {
                state.failure = Some(failure);
                drop(state);
                self.token.cancel();
                return;
            }
        }
        tracing::warn!("{failure}");
    }

    /// This group and its living descendants.
    fn family(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let children: Vec<_> = self.lock().children.iter().filter_map(Weak::upgrade).collect();
        let mut family = vec![self.clone()];
        for child in children {
            family.extend(child.family());
        }
        family
    }

    async fn idle(&self) {
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            // Registered before the check: an end between the two is not missed.
            notified.as_mut().enable();
            if self.lock().running.is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Aborts what is running and what starts from now on; returns the names, calls left out.
    fn abort(&self) -> Vec<String> {
        let mut state = self.lock();
        state.closed = true;
        let mut names = Vec::new();
        for running in state.running.values() {
            if running.kind != Kind::Call {
                names.push(running.name.to_string());
            }
            if let Some(handle) = &running.handle {
                handle.abort();
            }
        }
        names
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.token.cancel();
        self.abort();
    }
}

/// A running task's place in its group; left when the task ends, however it ends.
struct Entry {
    group: Weak<Inner>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(group) = self.group.upgrade() {
            group.lock().running.remove(&self.id);
            group.idle.notify_waiters();
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    panic.downcast_ref::<String>().map_or("no message", String::as_str)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn failed_essential_task_cancels_the_group_and_is_returned() {
        let group = TaskGroup::new("store");
        let token = group.token();
        group.spawn_essential("waits", async move {
            token.cancelled().await;
            Ok(())
        });
        group.spawn_essential("writer", async { Err(anyhow!("disk full").context("flush")) });
        let error = group.run_until(CancellationToken::new(), GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "store: task writer failed: flush: disk full");
    }

    #[tokio::test]
    async fn essential_panic_is_a_failure_with_its_message() {
        let group = TaskGroup::new("store");
        group.spawn_essential("writer", async { panic!("impossible {}", 7) });
        group.token().cancelled().await;
        let error = group.join(GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "store: task writer panicked: impossible 7");
    }

    #[tokio::test]
    async fn ordinary_failure_leaves_the_group_running() {
        let group = TaskGroup::new("store");
        group.spawn("pull", async { Err(anyhow!("peer went away")) });
        group.spawn("panics", async { panic!("a bug") });
        group.inner.idle().await;
        assert!(!group.token().is_cancelled());
        assert!(group.join(GRACE).await.is_ok());
    }

    #[tokio::test]
    async fn join_aborts_and_names_what_does_not_end() {
        let group = TaskGroup::new("store");
        group.spawn("stuck", std::future::pending());
        let error = group.join(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "store: aborted after 1ms: stuck");
        assert!(group.inner.lock().running.is_empty());
        // A task that starts after the end is aborted, too.
        group.spawn("late", std::future::pending());
        tokio::time::timeout(GRACE, group.inner.idle()).await.unwrap();
    }

    #[tokio::test]
    async fn child_ends_with_its_parent_but_not_the_other_way() {
        let parent = TaskGroup::new("node");
        let child = parent.child("store");
        child.spawn_essential("writer", async { Err(anyhow!("broken")) });
        child.token().cancelled().await;
        assert!(!parent.token().is_cancelled());
        let error = parent.join(GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "store: task writer failed: broken");

        let second = parent.child("sensor");
        assert!(second.token().is_cancelled());
    }

    #[tokio::test]
    async fn dropping_the_last_handle_aborts_the_tasks() {
        let group = TaskGroup::new("store");
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("holder", async move {
            let _held = held;
            std::future::pending().await
        });
        drop(group);
        let gone = tokio::time::timeout(GRACE, dropped).await.unwrap();
        assert!(gone.is_err());
    }
}
