//! The URL book: which base URLs there are, who answers at each, and when each is to be asked again.
//!
//! A URL is only a hint. Who is behind it is learned from what it serves, may change, and may be ourselves. What
//! a member once said can be repeated by a stranger: so what goes wrong at a URL is kept here, with the URL.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::failures::Failures;
use super::{URLS_MAX, UrlState, UrlStatus};
use crate::model::NodeId;
use crate::time::Monotonic;

/// The most polls under way at once.
const POLLS_MAX: usize = 32;

/// What a URL is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Its state, that anybody may repeat.
    Poll,
    /// An exchange, that only the node itself can answer.
    Hello,
}

/// One URL.
#[derive(Debug)]
pub(super) struct Url {
    url: String,
    pub(super) state: UrlState,
    /// The last poll was good.
    pub(super) works: bool,
    next_poll: Monotonic,
    /// Until when an answer to the poll under way is waited for.
    polling: Option<Monotonic>,
    /// Until when an answer to the hello under way is waited for.
    greeting: Option<Monotonic>,
    /// When a hello was last answered well; forgotten when one fails.
    greeted: Option<Monotonic>,
    pub(super) failures: Failures,
    /// Operators were told that it does not work, and not yet that it works again.
    told: bool,
}

/// All URLs, in order of configuration.
#[derive(Debug)]
pub(super) struct Book {
    urls: Vec<Url>,
    /// How long an answer is waited for; the shell's own timeouts come first.
    patience: Duration,
}

impl Book {
    pub(super) fn new(patience: Duration) -> Self {
        Self { urls: Vec::new(), patience }
    }

    /// From now on there are these URLs. New ones are asked soon, spread over `spread`.
    pub(super) fn set(
        &mut self,
        now: Monotonic,
        urls: Vec<String>,
        spread: Duration,
        random: &mut Xoshiro256PlusPlus,
    ) {
        let mut before: BTreeMap<String, Url> =
            self.urls.drain(..).map(|url| (url.url.clone(), url)).collect();
        for url in urls {
            if self.urls.len() == URLS_MAX || self.get(&url).is_some() {
                continue;
            }
            let known = before.remove(&url).unwrap_or_else(|| Url {
                url,
                state: UrlState::Unknown,
                works: false,
                next_poll: now + spread.mul_f64(random.random_range(0.0..1.0)),
                polling: None,
                greeting: None,
                greeted: None,
                failures: Failures::default(),
                told: false,
            });
            self.urls.push(known);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }

    pub(super) fn get(&self, url: &str) -> Option<&Url> {
        self.urls.iter().find(|known| known.url == url)
    }

    pub(super) fn get_mut(&mut self, url: &str) -> Option<&mut Url> {
        self.urls.iter_mut().find(|known| known.url == url)
    }

    /// The URL to use for a node: the first where exchanges work, else the first that answers polls (what a
    /// node once said can be repeated by others), else the first that ever led there.
    pub(super) fn of(&self, node: &NodeId) -> Option<&str> {
        let leading = self.urls.iter().filter(|url| url.state == UrlState::Of(*node));
        let rank = |url: &&Url| match (url.works, url.exchanges()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        leading.min_by_key(rank).map(|url| url.url.as_str())
    }

    /// Takes the URLs that are to be asked now; `interval` says how often each is.
    pub(super) fn due(
        &mut self,
        now: Monotonic,
        random: &mut Xoshiro256PlusPlus,
        interval: impl Fn(&Self, usize) -> Duration,
    ) -> Vec<String> {
        let mut room = POLLS_MAX.saturating_sub(self.polling());
        let mut due = Vec::new();
        for index in 0..self.urls.len() {
            if room == 0 {
                break;
            }
            let url = &self.urls[index];
            if url.polling.is_none() && url.next_poll <= now {
                let interval = interval(self, index).mul_f64(random.random_range(0.9..1.1));
                let (patience, url) = (self.patience, &mut self.urls[index]);
                url.next_poll = now + interval;
                url.polling = Some(now + patience);
                due.push(url.url.clone());
                room -= 1;
            }
        }
        due
    }

    /// The URLs whose answer never came, and to what.
    pub(super) fn overdue(&self, now: Monotonic) -> Vec<(String, Asked)> {
        let late = |until: Option<Monotonic>| until.is_some_and(|until| until <= now);
        let mut overdue = Vec::new();
        for url in &self.urls {
            for (asked, until) in [(Asked::Poll, url.polling), (Asked::Hello, url.greeting)] {
                if late(until) {
                    overdue.push((url.url.clone(), asked));
                }
            }
        }
        overdue
    }

    /// A URL and what is known of who is behind it.
    pub(super) fn at(&self, index: usize) -> (&str, UrlState) {
        (&self.urls[index].url, self.urls[index].state)
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        // With no room, an answer must come first, or its patience end.
        let full = self.polling() >= POLLS_MAX;
        let next = |url: &Url| match url.polling {
            Some(until) => Some(until),
            None if full => None,
            None => Some(url.next_poll),
        };
        let greetings = self.urls.iter().filter_map(|url| url.greeting);
        self.urls.iter().filter_map(next).chain(greetings).min()
    }

    pub(super) fn status(&self) -> Vec<UrlStatus> {
        let status = |url: &Url| UrlStatus {
            url: url.url.clone(),
            state: url.state,
            works: url.works,
            errors: url.failures.count(),
            last_error: url.failures.last().to_owned(),
        };
        self.urls.iter().map(status).collect()
    }

    fn polling(&self) -> usize {
        self.urls.iter().filter(|url| url.polling.is_some()).count()
    }
}

impl Url {
    /// A poll was answered, well or not.
    pub(super) fn polled(&mut self) {
        self.polling = None;
    }

    /// Ask again no later than at `at`.
    pub(super) fn hurry(&mut self, at: Monotonic) {
        self.next_poll = self.next_poll.min(at);
    }

    /// Whether to send a hello: none is under way, and the last good one is older than `age`, or `anyway`.
    pub(super) fn greet(&mut self, now: Monotonic, patience: Duration, age: Duration, anyway: bool) -> bool {
        let due = self.greeted.is_none_or(|greeted| now.since(greeted) >= age);
        let greet = self.greeting.is_none() && (due || anyway);
        if greet {
            self.greeting = Some(now + patience);
        }
        greet
    }

    /// A hello was answered well.
    pub(super) fn greeted(&mut self, now: Monotonic) {
        self.greeting = None;
        self.greeted = Some(now);
    }

    /// An exchange of a pull failed: a hello must show again that they work.
    pub(super) fn unproved(&mut self) {
        self.greeted = None;
    }

    /// It leads to ourselves, where no hello is sent: that it answers is all there is to know.
    pub(super) fn ours(&mut self) {
        self.works = true;
        self.told = false;
        self.failures.over();
    }

    /// The last hello was answered well.
    pub(super) fn exchanges(&self) -> bool {
        self.greeted.is_some()
    }

    /// A poll or a hello failed. Returns whether that is news: it goes on until both are answered well.
    pub(super) fn failed(&mut self, now: Monotonic, asked: Asked, reason: &str) -> bool {
        match asked {
            Asked::Poll => {
                self.polling = None;
                self.works = false;
            }
            Asked::Hello => self.greeting = None,
        }
        self.greeted = None;
        self.failures.add(now, reason);
        !std::mem::replace(&mut self.told, true)
    }

    /// A hello was answered well, and perhaps a poll: then what went wrong before is over. Whether operators are to be told
    /// that it works again, which they are once.
    pub(super) fn recovered(&mut self) -> bool {
        let works = self.works && self.exchanges();
        if works {
            self.failures.over();
        }
        let recovered = self.told && works;
        self.told &= !recovered;
        recovered
    }
}
