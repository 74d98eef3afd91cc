//! How it looks. Nothing here asks, waits or decides: the same model and size give the same picture.

use gateway::json;
use lattice_proto::coordinator::v1::{Heal, Health, Peer, PeerState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::model::{Sample, Top};
use crate::cli::cluster::{by_name, path_text, sync_text};
use crate::cli::output::{count, size, time};

const HEAD_LINES: u16 = 6;
const HEALS_LINES: u16 = 8;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let [head, peers, heals, foot] = Layout::vertical([
        Constraint::Length(HEAD_LINES),
        Constraint::Min(3),
        Constraint::Length(HEALS_LINES),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    match &top.last {
        Some(sample) => {
            draw_head(frame, head, top, sample);
            draw_peers(frame, peers, &sample.status.peers);
            draw_heals(frame, heals, &sample.heals);
        }
        None => frame.render_widget(Paragraph::new(format!("asking {} ..", top.url)), head),
    }
    let foot_line = match &top.trouble {
        Some(why) => Line::styled(format!("no answer: {why}"), bad()),
        None => Line::styled("q quits", Style::new().add_modifier(Modifier::DIM)),
    };
    frame.render_widget(Paragraph::new(foot_line), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, top: &Top, sample: &Sample) {
    let status = &sample.status;
    let sensor = status.sensor.clone().unwrap_or_default();
    let health = status.health();
    let p2p = match (sensor.available, sensor.enabled, sensor.started) {
        (false, _, _) => "sensor unavailable".to_owned(),
        (true, false, _) => "disabled".to_owned(),
        (true, true, false) => "down".to_owned(),
        (true, true, true) => {
            format!("{} live, {} zombie, {} connected", sensor.live, sensor.zombie, sensor.connected)
        }
    };
    let fallback =
        status.fallback_in_ms.map_or_else(String::new, |left| format!("   HTTP in {} s", left / 1_000));
    let sealed = sample.sealed.clone().unwrap_or_default();
    let root = sealed.root.as_deref().map_or("-", |root| &root[..root.len().min(16)]);
    let rates = top.rates.map_or_else(String::new, |rates| {
        format!(
            "{:+.1} keys/s   pulls {:.1} entries/s, {}/s",
            rates.entries,
            rates.pulled,
            size(rates.bytes as u64)
        )
    });
    let lines = vec![
        Line::from(vec![
            Span::styled(status.name.clone(), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("  {}  cluster {}", short(&status.node), status.cluster)),
        ]),
        Line::from(vec![
            Span::raw("health "),
            Span::styled(json::health(health), health_style(health)),
            Span::raw(format!("   sync {}   p2p {p2p}{fallback}", sync_text(status))),
        ]),
        Line::raw(format!("epoch {}   root {root}   keys {}", sealed.epoch, sealed.entries)),
        Line::raw(rates),
        Line::styled(trouble_of(sample), bad()),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

/// What the node says is wrong, in one line.
fn trouble_of(sample: &Sample) -> String {
    let status = &sample.status;
    let mut trouble = vec![status.store_error.clone(), status.clock_error.clone()];
    trouble.retain(|error| !error.is_empty());
    let missing =
        status.missing.iter().filter(|it| status.store_error.is_empty() || it.service != "state-store");
    trouble.extend(missing.map(|missing| format!("{}: {}", missing.service, missing.reason)));
    trouble.extend(status.recovering.then(|| "the store recovers".to_owned()));
    trouble.extend((status.damaged > 0).then(|| format!("damaged keys: {}", status.damaged)));
    trouble.join("; ")
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, peers: &[Peer]) {
    let rows = by_name(peers).into_iter().map(|peer| {
        let row = Row::new([
            if peer.name.is_empty() { "-".to_owned() } else { peer.name.clone() },
            short(&peer.node),
            json::peer_state(peer.state()).to_owned(),
            path_text(peer.path()).to_owned(),
            peer.failover.clone(),
            peer.divergence_count.to_string(),
            peer.lag_epochs.to_string(),
            if peer.backoff_ms == 0 {
                "-".to_owned()
            } else {
                format!("{} s", peer.backoff_ms.div_ceil(1_000))
            },
            peer.errors.to_string(),
            peer.last_error.clone(),
        ]);
        match (peer.state(), peer.divergence_count) {
            (PeerState::Down, _) => row.style(bad()),
            (PeerState::Zombie, _) | (_, 1..) => row.style(Style::new().fg(Color::Yellow)),
            _ => row,
        }
    });
    let widths = [
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(4),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    let header =
        ["PEER", "KEY", "STATE", "PATH", "FAILOVER", "DIVERGED", "LAG", "BACKOFF", "ERRORS", "LAST ERROR"];
    let title = format!(" {} ", count(peers.len() as u64, "peer", "peers"));
    frame.render_widget(table(rows.collect(), &widths, &header, title), area);
}

fn draw_heals(frame: &mut Frame<'_>, area: Rect, heals: &[Heal]) {
    let rows = heals.iter().map(|heal| {
        let row = Row::new([
            time(heal.started_ms),
            heal.peer.clone(),
            path_text(heal.path()).to_owned(),
            heal.outcome.clone(),
            heal.entries_merged.to_string(),
            size(heal.bytes_in + heal.bytes_out),
            format!("{} ms", heal.duration_ms),
        ]);
        if heal.outcome == "Healed" { row } else { row.style(Style::new().fg(Color::Yellow)) }
    });
    let widths = [
        Constraint::Length(24),
        Constraint::Fill(1),
        Constraint::Length(4),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(9),
    ];
    let header = ["STARTED", "WITH", "PATH", "OUTCOME", "MERGED", "BYTES", "TOOK"];
    frame.render_widget(table(rows.collect(), &widths, &header, " last heals ".to_owned()), area);
}

fn table<'a>(rows: Vec<Row<'a>>, widths: &[Constraint], header: &[&'static str], title: String) -> Table<'a> {
    let header = Row::new(header.iter().copied()).style(Style::new().add_modifier(Modifier::DIM));
    Table::new(rows, widths.iter().copied())
        .header(header)
        .block(Block::new().borders(Borders::TOP).title(title))
}

fn health_style(health: Health) -> Style {
    match health {
        Health::Optimal => Style::new().fg(Color::Green),
        Health::P2pOnly | Health::HttpOnly => Style::new().fg(Color::Yellow),
        Health::Isolated | Health::Unspecified => bad(),
    }
}

fn bad() -> Style {
    Style::new().fg(Color::Red)
}

/// The beginning of a key: enough to tell the nodes of a cluster apart.
fn short(node: &[u8]) -> String {
    hex::encode(&node[..node.len().min(4)])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lattice_proto::coordinator::v1::{Path, Sensor, StatusResponse, SyncMode};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::cluster::Sealed;

    fn picture(top: &Top) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
        terminal.draw(|frame| draw(frame, top)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..buffer.area.height).map(|y| row(y).trim_end().to_owned()).collect()
    }

    fn sample(at_s: u64, entries: u64) -> Sample {
        let peer = Peer {
            node: vec![0xab; 32].into(),
            name: "node-2".into(),
            state: PeerState::Zombie.into(),
            path: Path::Http.into(),
            failover: "secondary".into(),
            divergence_count: 2,
            backoff_ms: 4_000,
            lag_epochs: 3,
            errors: 1,
            last_error: "refused".into(),
            ..Peer::default()
        };
        let heal = Heal {
            started_ms: 1_700_000_000_007,
            peer: "http://node-2:8080".into(),
            path: Path::Http.into(),
            outcome: "Healed".into(),
            entries_merged: 12,
            bytes_in: 1_126,
            duration_ms: 31,
            ..Heal::default()
        };
        Sample {
            at: Duration::from_secs(at_s),
            status: StatusResponse {
                node: vec![0xcd; 32].into(),
                name: "node-1".into(),
                cluster: "blue".into(),
                health: Health::HttpOnly.into(),
                sync_mode: SyncMode::Http.into(),
                sensor: Some(Sensor {
                    available: true,
                    enabled: true,
                    started: true,
                    zombie: 1,
                    connected: 1,
                    ..Sensor::default()
                }),
                peers: vec![peer],
                fallback_in_ms: Some(12_500),
                clock_error: "the clock is 12 s ahead".into(),
                ..StatusResponse::default()
            },
            sealed: Some(Sealed { epoch: 1_234, root: Some("ef".repeat(32)), entries }),
            heals: vec![heal],
        }
    }

    #[test]
    fn a_node_in_trouble_is_seen_at_a_glance() {
        let mut top = Top::new("http://node-1:8080");
        top.sampled(sample(1, 100));
        top.sampled(sample(3, 105));
        let expected = [
            "node-1  cdcdcdcd  cluster blue",
            "health HTTP_ONLY   sync HTTP   p2p 0 live, 1 zombie, 1 connected   HTTP in 12 s",
            "epoch 1234   root efefefefefefefef   keys 105",
            "+2.5 keys/s   pulls 0.0 entries/s, 0 B/s",
            "the clock is 12 s ahead",
            "",
            " 1 peer ────────────────────────────────────────────────────────────────────────────────────────────",
            "PEER         KEY      STATE  PATH FAILOVER         DIVERGED LAG   BACKOFF ERRORS LAST ERROR",
            "node-2       abababab zombie HTTP secondary        2        3     4 s     1      refused",
            "",
            "",
            " last heals ────────────────────────────────────────────────────────────────────────────────────────",
            "STARTED                  WITH                          PATH OUTCOME    MERGED   BYTES      TOOK",
            "2023-11-14T22:13:20.007Z http://node-2:8080            HTTP Healed     12       1.1 KiB    31 ms",
            "",
            "",
            "",
            "",
            "",
            "q quits",
        ];
        let picture = picture(&top);
        assert_eq!(picture, expected, "{}", picture.join("\n"));
    }

    #[test]
    fn what_was_known_stays_while_the_node_does_not_answer() {
        let mut top = Top::new("http://node-1:8080");
        assert_eq!(picture(&top)[0], "asking http://node-1:8080 ..");
        top.sampled(sample(1, 100));
        top.failed("connection refused".to_owned());
        let picture = picture(&top);
        assert!(
            picture[0].starts_with("node-1") && picture[19] == "no answer: connection refused",
            "{picture:?}"
        );
    }

    #[test]
    fn a_small_terminal_is_no_reason_to_fail() {
        let mut top = Top::new("http://node-1:8080");
        top.sampled(sample(1, 100));
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &top)).unwrap();
        }
    }
}
