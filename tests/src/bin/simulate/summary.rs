//! What a campaign came to, for people and as JSON.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use lattice_tests::simulation::Invariant;
use lattice_tests::simulation::campaign::Totals;
use lattice_tests::simulation::liar::Lie;
use serde_json::{Value, json};

/// For people.
pub(crate) fn text(totals: &Totals, took: Duration) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} seeds, {:.1} simulated hours in {} s, {} events, {} broken",
        totals.seeds,
        hours(totals.simulated),
        took.as_secs(),
        totals.events,
        totals.failures.len(),
    );
    let _ = writeln!(text, "{} writes acknowledged, {} pulls ended", totals.acknowledged, pulls(totals));
    if let [.., slowest] = &totals.converged_after[..] {
        let (half, most) = (quantile(totals, 0.5).as_secs(), quantile(totals, 0.99).as_secs());
        let _ = writeln!(
            text,
            "converged after the end of the faults: p50 {half} s, p99 {most} s, at most {} s",
            slowest.as_secs()
        );
    }
    table(&mut text, "faults injected", totals.faults.iter().map(|(kind, times)| (kind, *times, None)));
    let lies =
        Lie::ALL.iter().map(|lie| (lie.name(), totals.lies.get(lie).copied().unwrap_or_default(), None));
    table(&mut text, "lies told", lies);
    let invariants = Invariant::ALL
        .iter()
        .map(|&invariant| (invariant, totals.checked.of(invariant), Some(totals.broken(invariant))));
    table(&mut text, "invariants checked", invariants);
    table(&mut text, "pulls ended", totals.pulls.iter().map(|(outcome, times)| (outcome, *times, None)));
    for failure in &totals.failures {
        let _ = writeln!(text, "\nseed {}: it does not hold that {}", failure.seed, failure.invariant);
        // The last line says what was seen, and the one after it how to see it again.
        let last: Vec<&str> = failure.report.lines().rev().take(2).collect();
        last.iter().rev().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// As JSON.
pub(crate) fn json(totals: &Totals, took: Duration) -> Value {
    let map =
        |pairs: Vec<(String, u64)>| Value::Object(pairs.into_iter().map(|(k, v)| (k, v.into())).collect());
    let invariants: Vec<Value> = Invariant::ALL
        .iter()
        .map(|&invariant| {
            json!({
                "name": invariant,
                "says": invariant.name(),
                "checked": totals.checked.of(invariant),
                "broken": totals.broken(invariant),
            })
        })
        .collect();
    let failures: Vec<Value> = totals
        .failures
        .iter()
        .map(
            |failure| json!({"seed": failure.seed, "invariant": failure.invariant, "report": failure.report}),
        )
        .collect();
    let lies = totals.lies.iter().map(|(lie, times)| (lie.name().to_owned(), *times));
    json!({
        "seeds": totals.seeds,
        "simulated_hours": hours(totals.simulated),
        "took_ms": took.as_millis() as u64,
        "events": totals.events,
        "writes_acknowledged": totals.acknowledged,
        "converged_after_ms": {
            "p50": quantile(totals, 0.5).as_millis() as u64,
            "p99": quantile(totals, 0.99).as_millis() as u64,
            "max": quantile(totals, 1.0).as_millis() as u64,
        },
        "faults": map(totals.faults.iter().map(|(kind, times)| ((*kind).to_owned(), *times)).collect()),
        "lies": map(lies.collect()),
        "invariants": invariants,
        "pulls": map(totals.pulls.iter().map(|(outcome, times)| (outcome.name().to_owned(), *times)).collect()),
        "failures": failures,
        "broken": totals.failures.len(),
    })
}

fn table<T: Display>(text: &mut String, title: &str, rows: impl Iterator<Item = (T, u64, Option<usize>)>) {
    let rows: Vec<(String, u64, Option<usize>)> =
        rows.map(|(name, times, broken)| (name.to_string(), times, broken)).collect();
    let width = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or_default();
    let _ = writeln!(text, "\n{title}");
    for (name, times, broken) in rows {
        let _ = write!(text, "  {name:<width$}  {times:>10}");
        let _ = match broken {
            Some(broken) => writeln!(text, "  {broken} broken"),
            None => writeln!(text),
        };
    }
}

fn pulls(totals: &Totals) -> u64 {
    totals.pulls.values().sum()
}

fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3_600.0
}

fn quantile(totals: &Totals, part: f64) -> Duration {
    let sorted = &totals.converged_after;
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}
