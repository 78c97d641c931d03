//! `baton top`: a live view in the terminal.

use crate::Done;
use crate::endpoint::Nodes;
use crate::numbers::{age, bytes, clock, micros, now_ms, percent};
use crate::show::why;
use crate::table::{at, list, number, word};
use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How soon a key is noticed.
const KEYS: Duration = Duration::from_millis(50);
/// Recent requests shown.
const RECENT: usize = 100;

/// What the daemon says at one moment.
struct Look {
    at: Instant,
    status: Value,
    targets: Value,
    migrations: Value,
}

impl Look {
    async fn take(nodes: &Nodes) -> Result<Self> {
        Ok(Look {
            at: Instant::now(),
            status: nodes.intermediate.get("/v1/status").await?,
            targets: nodes.intermediate.get("/v1/targets").await?,
            migrations: nodes.intermediate.get(&format!("/v1/migrations?limit={RECENT}")).await?,
        })
    }
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, interval: Duration) -> Done {
    if as_json {
        return lines(nodes, interval).await;
    }
    // Before the terminal is touched: an error is to be read.
    let mut before = Look::take(nodes).await?;
    let mut now = Look::take(nodes).await?;
    let mut terminal = ratatui::try_init()?;
    let ended = async {
        loop {
            terminal.draw(|frame| draw(frame, &before, &now))?;
            if is_over(interval)? {
                return Ok(());
            }
            before = std::mem::replace(&mut now, Look::take(nodes).await?);
        }
    }
    .await;
    ratatui::restore();
    ended.map(|()| ExitCode::SUCCESS)
}

/// A line for each look, until nobody reads them.
async fn lines(nodes: &Nodes, interval: Duration) -> Done {
    let mut out = std::io::stdout();
    loop {
        let Look { status, targets, migrations, .. } = Look::take(nodes).await?;
        let look = json!({
            "at": now_ms(),
            "status": status,
            "targets": targets.get("targets"),
            "migrations": migrations.get("migrations"),
        });
        match writeln!(out, "{look}").and_then(|()| out.flush()) {
            Ok(()) => tokio::time::sleep(interval).await,
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether a key that ends it was pressed within this time.
fn is_over(within: Duration) -> Result<bool> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if event::poll(KEYS)?
            && let Event::Key(key) = event::read()?
        {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What a count grew by in a second. A restarted daemon's begins anew.
fn rate(before: u64, now: u64, between: Duration) -> u64 {
    let millis = between.as_millis().max(1);
    u64::try_from(u128::from(now.saturating_sub(before)) * 1000 / millis).unwrap_or(u64::MAX)
}

fn draw(frame: &mut Frame<'_>, before: &Look, now: &Look) {
    let targets = list(&now.targets, "/targets").count();
    let height = u16::try_from(targets).unwrap_or(u16::MAX).saturating_add(3).min(frame.area().height / 2);
    let parts = Layout::vertical([Constraint::Length(4), Constraint::Length(height), Constraint::Min(3)]);
    let [head, middle, foot] = parts.areas(frame.area());
    frame.render_widget(summary(before, now), head);
    frame.render_widget(links(before, now), middle);
    frame.render_widget(recent(now), foot);
}

fn summary(before: &Look, now: &Look) -> Paragraph<'static> {
    let status = &now.status;
    let between = now.at.duration_since(before.at);
    let per_second = |key: &str| rate(number(&before.status, key), number(status, key), between);
    let count = |outcome: &str| number(status, &format!("/requests/{outcome}"));
    let all = count("migrated") + count("proxied") + count("closed");
    Paragraph::new(vec![
        Line::from(format!(
            "{} {}, up {}, version {}, data plane {}   (q ends)",
            at(status, "/name"),
            at(status, "/state"),
            age(now_ms().saturating_sub(number(status, "/started"))),
            at(status, "/version"),
            at(status, "/data_plane"),
        ))
        .style(Style::new().add_modifier(Modifier::BOLD)),
        Line::from(format!(
            "requests/s {} migrated, {} proxied, {} closed; since the start {} migrated ({})",
            per_second("/requests/migrated"),
            per_second("/requests/proxied"),
            per_second("/requests/closed"),
            count("migrated"),
            percent(count("migrated"), all),
        )),
        Line::from(format!(
            "flows {} live, {} of {} slots; {} handoffs under way, {} packets held, {} own sockets",
            number(status, "/flows/live"),
            number(status, "/flows/slots_used"),
            number(status, "/flows/slots"),
            number(status, "/handoffs_in_flight"),
            number(status, "/held_packets"),
            number(status, "/connections"),
        )),
    ])
}

fn links(before: &Look, now: &Look) -> Table<'static> {
    let between = now.at.duration_since(before.at);
    let rows = list(&now.targets, "/targets").map(|target| {
        let name = word(target, "/name");
        let earlier = list(&before.targets, "/targets").find(|other| word(other, "/name") == name);
        let sum = |of: Option<&Value>, list_at: &str, key: &str| -> u64 {
            of.map_or(0, |of| list(of, list_at).map(|part| number(part, key)).sum())
        };
        let grown = |list_at, key| rate(sum(earlier, list_at, key), sum(Some(target), list_at, key), between);
        let direct =
            rate(earlier.map_or(0, |t| number(t, "/migrated")), number(target, "/migrated"), between);
        let is = |key, expected| word(target, key) == Some(expected);
        let good = is("/agent_state", "up") && is("/pools/0/standing", "up") && is("/admin", "ready");
        Row::new([
            Cell::from(at(target, "/name")),
            Cell::from(at(target, "/agent_state")),
            Cell::from(at(target, "/pools/0/standing")),
            Cell::from(at(target, "/admin")),
            Cell::from(at(target, "/flows")),
            Cell::from(direct.to_string()),
            Cell::from(grown("/pools", "/picks_proxied").to_string()),
            Cell::from(format!("{}/s", bytes(grown("/load", "/bytes")))),
            Cell::from(micros(number(target, "/load/0/rtt_us"))),
        ])
        .style(if good { Style::new() } else { Style::new().fg(Color::Yellow) })
    });
    let widths = [16, 9, 10, 9, 8, 9, 9, 12, 10].map(Constraint::Length);
    let heading = ["TARGET", "AGENT", "STANDING", "ORDER", "FLOWS", "DIRECT/S", "PROXY/S", "SENT", "RTT"];
    Table::new(rows, widths)
        .header(Row::new(heading).style(Style::new().add_modifier(Modifier::REVERSED)))
        .block(Block::bordered().title("links: what goes directly, what is proxied"))
}

fn recent(now: &Look) -> Table<'static> {
    let rows = list(&now.migrations, "/migrations").map(|m| {
        let style = match word(m, "/outcome").unwrap_or_default() {
            "migrated" => Style::new().fg(Color::Green),
            "proxied" => Style::new().fg(Color::Yellow),
            _ => Style::new().fg(Color::Red),
        };
        Row::new([
            clock(number(m, "/started")),
            at(m, "/outcome"),
            why(m),
            at(m, "/target"),
            micros(number(m, "/total_us")),
            at(m, "/client"),
            at(m, "/request"),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(18),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(22),
        Constraint::Min(10),
    ];
    let heading = ["STARTED", "OUTCOME", "REASON", "TARGET", "TOOK", "CLIENT", "REQUEST"];
    Table::new(rows, widths)
        .header(Row::new(heading).style(Style::new().add_modifier(Modifier::REVERSED)))
        .block(Block::bordered().title("recent requests"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn look(at: Instant, migrated: u64, sent: u64) -> Look {
        Look {
            at,
            status: json!({ "name": "front", "state": "ready", "data_plane": "tcx", "version": "1",
                "requests": { "migrated": migrated, "proxied": 0, "closed": 0 }, "flows": { "live": 3, "slots": 8 } }),
            targets: json!({ "targets": [{ "name": "target1", "agent_state": "up", "admin": "ready", "flows": 3,
                "migrated": migrated, "pools": [{ "standing": "up", "picks_proxied": 0 }],
                "load": [{ "bytes": sent, "rtt_us": 150 }] }] }),
            migrations: json!({ "migrations": [{ "outcome": "proxied", "reason": "no_agent", "request": "GET /a" }] }),
        }
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let begin = Instant::now();
        let (before, now) = (look(begin, 100, 0), look(begin + Duration::from_secs(2), 300, 4 << 20));
        let mut terminal = Terminal::new(TestBackend::new(110, 20)).unwrap();
        terminal.draw(|frame| draw(frame, &before, &now)).unwrap();
        let shown: String = terminal.backend().to_string();
        for part in
            ["front ready", "100 migrated, 0 proxied", "target1", "2.0 MiB/s", "150 us", "no_agent", "GET /a"]
        {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
        assert_eq!(rate(300, 100, Duration::from_secs(1)), 0, "restarted");
    }
}
