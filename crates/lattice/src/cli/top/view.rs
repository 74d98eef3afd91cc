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
const FOOT_LINES: u16 = 1;
const HEALS_LINES: u16 = 8;
/// A table's title and header, before its first row.
const TABLE_LINES: u16 = 2;
/// From so many columns on, peers are shown with all that is known of them.
const WIDE_FROM: u16 = 100;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let rows = top.last.as_ref().map_or(0, |sample| sample.status.peers.len());
    let [head, peers, heals, foot] = Layout::vertical([
        Constraint::Length(HEAD_LINES),
        Constraint::Min(0),
        Constraint::Length(heals_lines(frame.area().height, rows)),
        Constraint::Length(FOOT_LINES),
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

/// What the peers leave of a terminal's lines; nothing where no heal would fit.
fn heals_lines(height: u16, peers: usize) -> u16 {
    let peers = TABLE_LINES.saturating_add(u16::try_from(peers).unwrap_or(u16::MAX));
    let left = height.saturating_sub(HEAD_LINES + FOOT_LINES).saturating_sub(peers);
    if left > TABLE_LINES { left.min(HEALS_LINES) } else { 0 }
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

/// What is shown of a peer.
struct Column {
    name: &'static str,
    width: Constraint,
    /// Left out where there is no room for all.
    wide: bool,
    of: fn(&Peer) -> String,
}

const PEER_COLUMNS: [Column; 10] = [
    column("PEER", 12, false, |peer| if peer.name.is_empty() { "-".to_owned() } else { peer.name.clone() }),
    column("KEY", 8, true, |peer| short(&peer.node)),
    column("STATE", 6, false, |peer| json::peer_state(peer.state()).to_owned()),
    column("PATH", 4, false, |peer| path_text(peer.path()).to_owned()),
    column("FAILOVER", 17, false, |peer| peer.failover.clone()),
    column("DIVERGED", 8, false, |peer| peer.divergence_count.to_string()),
    column("LAG", 5, false, |peer| peer.lag_epochs.to_string()),
    column("BACKOFF", 7, true, |peer| match peer.backoff_ms {
        0 => "-".to_owned(),
        ms => format!("{} s", ms.div_ceil(1_000)),
    }),
    column("ERRORS", 6, true, |peer| peer.errors.to_string()),
    Column { width: Constraint::Fill(1), ..column("LAST ERROR", 0, false, |peer| peer.last_error.clone()) },
];

const fn column(name: &'static str, width: u16, wide: bool, of: fn(&Peer) -> String) -> Column {
    Column { name, width: Constraint::Length(width), wide, of }
}

/// How much a peer wants to be looked at, the most first.
fn trouble_rank(peer: &Peer) -> u8 {
    match (peer.state(), peer.divergence_count) {
        (PeerState::Down, _) => 0,
        (PeerState::Zombie, _) | (_, 1..) => 1,
        _ => 2,
    }
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, peers: &[Peer]) {
    let mut title = format!(" {} ", count(peers.len() as u64, "peer", "peers"));
    let mut shown = by_name(peers);
    let hidden = shown.len().saturating_sub(usize::from(area.height.saturating_sub(TABLE_LINES)));
    if hidden > 0 {
        // Who is well is missed least.
        shown.sort_by_key(|peer| trouble_rank(peer));
        title = format!(" {}, {hidden} not shown ", title.trim());
    }
    let columns: Vec<_> =
        PEER_COLUMNS.iter().filter(|column| !column.wide || area.width >= WIDE_FROM).collect();
    let rows = shown.into_iter().map(|peer| {
        let row = Row::new(columns.iter().map(|column| (column.of)(peer)));
        match trouble_rank(peer) {
            0 => row.style(bad()),
            1 => row.style(Style::new().fg(Color::Yellow)),
            _ => row,
        }
    });
    let widths: Vec<_> = columns.iter().map(|column| column.width).collect();
    let header: Vec<_> = columns.iter().map(|column| column.name).collect();
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
        picture_of(top, 100, 20)
    }

    fn picture_of(top: &Top, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
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
            "PEER         KEY      STATE  PATH FAILOVER          DIVERGED LAG   BACKOFF ERRORS LAST ERROR",
            "node-2       abababab zombie HTTP secondary         2        3     4 s     1      refused",
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
    fn where_there_is_little_room_the_peers_in_trouble_have_it() {
        let mut sample = sample(1, 100);
        let live = |name: &str| Peer {
            name: name.into(),
            state: PeerState::Live.into(),
            failover: "primary returning".into(),
            ..Peer::default()
        };
        sample.status.peers.extend([live("node-1"), live("node-3")]);
        let mut top = Top::new("http://node-1:8080");
        top.sampled(sample);
        let picture = picture_of(&top, 80, 10);
        assert_eq!(
            picture[6..],
            [
                " 3 peers, 2 not shown ──────────────────────────────────────────────────────────",
                "PEER         STATE  PATH FAILOVER          DIVERGED LAG   LAST ERROR",
                "node-2       zombie HTTP secondary         2        3     refused",
                "q quits",
            ],
            "{}",
            picture.join("\n")
        );
        let lines = |height| {
            let picture = picture_of(&top, 80, height);
            let count = |text: &str| picture.iter().filter(|line| line.contains(text)).count();
            (count("node-1 ") + count("node-3 "), count(" last heals "), count("Healed"))
        };
        // The head names node-1, too.
        for (height, expected) in [(11, (2, 0, 0)), (12, (3, 0, 0)), (14, (3, 0, 0)), (15, (3, 1, 1))] {
            assert_eq!(lines(height), expected, "{height} lines");
        }
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
