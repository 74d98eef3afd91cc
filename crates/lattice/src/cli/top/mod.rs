//! `lattice top`: a live view of one node and its peers.
//!
//! [`model`] keeps what was asked, [`view`] draws it; here is the loop between the terminal and the node.

mod model;
mod view;

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use lattice_proto::coordinator::v1::{HealsRequest, StatusRequest};
use lattice_runtime::{Clock, duration, shutdown};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

use self::model::{Sample, Top};
use super::client::Connection;
use super::cluster::newest_seal;
use super::output::{Failure, Output};

/// How many heals there is room for.
const HEALS: u32 = 6;
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_hours(1);
/// How long the keyboard is waited for at a time.
const KEYS_WITHIN: Duration = Duration::from_millis(100);
const KEYS_MAX: usize = 16;

/// How often the node may be asked.
pub(crate) fn parse_every(text: &str) -> Result<Duration, String> {
    let every = duration::parse(text).filter(|every| (EVERY_MIN..=EVERY_MAX).contains(every));
    every.ok_or_else(|| {
        let (least, most) = (duration::print(EVERY_MIN), duration::print(EVERY_MAX));
        format!("takes a whole number with one unit (ms, s, m, h), like 1s; {least} to {most}")
    })
}

/// Shows the node until the one who watches has seen enough.
pub(crate) async fn run(node: Connection, out: Output, every: Duration) -> Result<(), Failure> {
    if out.is_json() || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let why = "top needs a terminal; for programs there are --output json status, peers and heals";
        return Err(Failure::usage(why.to_owned()));
    }
    let taken = |error| Failure::refused(format!("take the terminal: {error}"));
    let stop = shutdown::requested().map_err(taken)?;
    let mut terminal = ratatui::try_init().map_err(taken)?;
    // However it ends, the terminal is given back as it was.
    let outcome = tokio::select! {
        outcome = follow(&mut terminal, &node, every) => outcome,
        () = stop => Ok(()),
    };
    ratatui::restore();
    outcome
}

async fn follow(terminal: &mut DefaultTerminal, node: &Connection, every: Duration) -> Result<(), Failure> {
    let clock = Clock::system();
    let mut keys = keys();
    let mut top = Top::new(node.url());
    loop {
        // Whatever is waited for, the keyboard is heard.
        let asking = sample(node, clock.monotonic());
        let Some(answer) = heard(terminal, &top, &mut keys, asking).await? else { return Ok(()) };
        match answer {
            Ok(sample) => top.sampled(sample),
            Err(failure) => top.failed(failure.to_string()),
        }
        let pause = tokio::time::sleep(every);
        if heard(terminal, &top, &mut keys, pause).await?.is_none() {
            return Ok(());
        }
    }
}

/// Shows the picture until `work` is done; `None` when that is not waited for any more.
async fn heard<T>(
    terminal: &mut DefaultTerminal,
    top: &Top,
    keys: &mut mpsc::Receiver<Key>,
    work: impl Future<Output = T>,
) -> Result<Option<T>, Failure> {
    let mut work = std::pin::pin!(work);
    loop {
        terminal.draw(|frame| view::draw(frame, top))?;
        tokio::select! {
            done = &mut work => return Ok(Some(done)),
            key = keys.recv() => match key {
                // The picture is drawn anew for its new size.
                Some(Key::Resized) => {}
                Some(Key::Quit) | None => return Ok(None),
            },
        }
    }
}

async fn sample(node: &Connection, at: Duration) -> Result<Sample, Failure> {
    let failed = |status: tonic::Status| node.failure(&status);
    let mut coordinator = node.coordinator();
    let status = coordinator.status(node.request(StatusRequest {})).await.map_err(failed)?.into_inner();
    let heals = coordinator.heals(node.request(HealsRequest { limit: HEALS })).await.map_err(failed)?;
    let sealed = newest_seal(node).await;
    Ok(Sample { at, status, sealed, heals: heals.into_inner().heals })
}

/// What the terminal says that matters.
enum Key {
    Quit,
    Resized,
}

/// Listens to the terminal on a thread of its own, until nobody wants to know.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            let event = match event::poll(KEYS_WITHIN) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let key = match event {
                Ok(event) if quits(&event) => Key::Quit,
                Ok(Event::Resize(..)) => Key::Resized,
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Key::Quit,
            };
            let quit = matches!(key, Key::Quit);
            if sender.blocking_send(key).is_err() || quit {
                return;
            }
        }
    });
    receiver
}

fn quits(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    key.kind == KeyEventKind::Press && (interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}
