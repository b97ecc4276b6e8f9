//! Standard output: lines that stay, and on a terminal a table below them that is drawn again and again.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_WIDTH: usize = 100;

/// Standard output.
pub(crate) struct Screen {
    terminal: bool,
    width: Cell<usize>,
    /// The terminal has another size now.
    resized: Option<Arc<AtomicBool>>,
    started: Instant,
    /// The table as it is on the terminal now.
    table: Vec<String>,
}

impl Screen {
    /// Needs a runtime, to hear of the terminal's size.
    pub(crate) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = std::io::stdout().is_terminal() && !dumb;
        Self {
            terminal,
            width: Cell::new(if terminal { terminal_width() } else { DEFAULT_WIDTH }),
            resized: terminal.then(listen_for_sizes),
            started: Instant::now(),
            table: Vec::new(),
        }
    }

    /// The table is drawn.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal.
    pub(crate) fn width(&self) -> usize {
        if let Some(resized) = &self.resized
            && resized.swap(false, Ordering::Relaxed)
        {
            self.width.set(terminal_width());
        }
        self.width.get()
    }

    /// Times of events count from now on.
    pub(crate) fn restart_clock(&mut self) {
        self.started = Instant::now();
    }

    /// Seconds since the clock was started.
    pub(crate) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Prints lines that stay.
    pub(crate) fn say(&self, text: &str) {
        self.write(text.split('\n'), &self.table);
    }

    /// Prints a text that stays, broken into lines.
    pub(crate) fn paragraph(&self, text: &str) {
        self.say(&wrap(text, self.width()).join("\n"));
    }

    /// Prints lines with the time before the first.
    pub(crate) fn event(&self, text: &str) {
        let time = format!("{:>6.1} s  ", self.elapsed());
        let lines = indent(text, time.len(), self.width());
        self.say(&format!("{time}{}", lines.join("\n").trim_start()));
    }

    /// Prints more about the last event, `columns` to the right.
    pub(crate) fn detail(&self, text: &str, columns: usize) {
        self.say(&indent(text, columns, self.width()).join("\n"));
    }

    /// Draws the table again, on a terminal.
    pub(crate) fn draw(&mut self, table: Vec<String>) {
        if self.terminal && table != self.table {
            self.write(std::iter::empty(), &table);
            self.table = table;
        }
    }

    /// Leaves the table where it is: the next lines are below it.
    pub(crate) fn leave_table(&mut self) {
        self.table.clear();
    }

    fn write<'a>(&self, lines: impl Iterator<Item = &'a str>, table: &[String]) {
        let mut text = String::new();
        if self.terminal {
            // No wrapping while drawing, so that a line of text is a line of the terminal.
            text.push_str("\x1b[?7l");
            if !self.table.is_empty() {
                text.push_str(&format!("\x1b[{}A\r\x1b[J", self.table.len()));
            }
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        if self.terminal {
            for line in table {
                text.push_str(line);
                text.push('\n');
            }
            text.push_str("\x1b[?7h");
        }
        let mut out = std::io::stdout().lock();
        // Nobody reads it any more: the demo goes on to its clean end.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn indent(text: &str, columns: usize, width: usize) -> Vec<String> {
    wrap(text, width.saturating_sub(columns).max(40))
        .into_iter()
        .map(|line| format!("{}{line}", " ".repeat(columns)))
        .collect()
}

/// Breaks a text into lines of at most `width` characters, at blanks where there are any.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            } else if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn listen_for_sizes() -> Arc<AtomicBool> {
    let resized = Arc::new(AtomicBool::new(false));
    if let Ok(mut changes) = signal(SignalKind::window_change()) {
        let changed = Arc::clone(&resized);
        tokio::spawn(async move {
            while changes.recv().await.is_some() {
                changed.store(true, Ordering::Relaxed);
            }
        });
    }
    resized
}

/// Columns of the terminal that standard input is.
fn terminal_width() -> usize {
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .output();
    let columns = output.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    });
    columns.filter(|columns| *columns >= 40).unwrap_or(DEFAULT_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_blanks_and_keeps_its_own_lines() {
        assert_eq!(wrap("one two three\nfour", 8), ["one two", "three", "four"]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
    }
}
