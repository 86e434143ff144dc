//! The screen: progress bars on a terminal, plain lines otherwise. All of it on stderr.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    error::Failure,
    event::{Event, Monitor},
    names::{ByteCount, SourceName},
};

const REDRAW: Duration = Duration::from_millis(200);

/// Shows people what happens.
pub struct Screen {
    bars: Option<MultiProgress>,
    quiet: bool,
    verbose: bool,
    colour: bool,
    sources: Mutex<HashMap<SourceName, Line>>,
}

/// One source on the screen.
struct Line {
    bar: Option<ProgressBar>,
    verb: &'static str,
    began: Instant,
    entries: u64,
    bytes: u64,
}

impl Screen {
    /// Looks whether stderr is a terminal.
    pub fn new(quiet: bool, verbose: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let bars = (terminal && !quiet).then(MultiProgress::new);
        Self { bars, quiet, verbose, colour, sources: Mutex::default() }
    }

    /// Takes the bars away.
    pub fn end(&self) {
        if let Some(bars) = &self.bars {
            // A terminal that went away needs no clearing.
            let _ = bars.clear();
        }
    }

    /// Prints a failure: what, why, and what to do.
    pub fn failure(&self, failure: &Failure) {
        let mut text = String::new();
        for (at, line) in failure.chain().iter().enumerate() {
            let lead = if at == 0 { self.paint("31;1", "error:") } else { self.paint("31", "  why:") };
            let _ = writeln!(text, "{lead} {line}");
        }
        for hint in failure.hints() {
            let _ = writeln!(text, "{} {hint}", self.paint("36", " hint:"));
        }
        self.print(text.trim_end());
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Prints above the bars.
    fn print(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, HashMap<SourceName, Line>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, source: SourceName, verb: &'static str, expected: Option<u64>) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(match expected {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            });
            let form = if expected.is_some() {
                "{prefix:>12} {bar:24} {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>12}  {eta} left  {msg}"
            } else {
                "{prefix:>12} {spinner} {bytes:>11}  {bytes_per_sec:>12}  {elapsed}  {msg}"
            };
            // The template is a constant of this file.
            bar.set_style(ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(source.to_string());
            bar.enable_steady_tick(REDRAW);
            bar
        });
        if bar.is_none() && !self.quiet {
            self.print(&format!("{source}: {verb}"));
        }
        self.sources().insert(source, Line { bar, verb, began: Instant::now(), entries: 0, bytes: 0 });
    }

    fn moved(&self, source: &SourceName, entries: u64, bytes: u64) {
        if let Some(line) = self.sources().get_mut(source) {
            line.entries += entries;
            line.bytes += bytes;
            if let Some(bar) = &line.bar {
                bar.inc(bytes);
                if entries > 0 {
                    bar.set_message(format!("{} entries", line.entries));
                }
            }
        }
    }

    fn ended(&self, source: &SourceName) {
        let Some(line) = self.sources().remove(source) else { return };
        if let Some(bar) = &line.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            let Line { verb, entries, bytes, began, .. } = line;
            let seconds = began.elapsed().as_secs_f64();
            self.print(&format!(
                "{source}: {verb} of {entries} entries, {} in {seconds:.1} s",
                ByteCount(bytes)
            ));
        }
    }
}

impl Monitor for Screen {
    fn event(&self, event: Event) {
        match event {
            Event::SourceBegan { source, verb, size_bytes_expected } => {
                self.began(source, verb, size_bytes_expected);
            }
            Event::SourceMoved { source, entries, bytes } => self.moved(&source, entries, bytes),
            Event::SourceEnded { source } => self.ended(&source),
            Event::Step { source, what } if self.verbose => {
                let lead = source.map(|source| format!("{source}: ")).unwrap_or_default();
                self.print(&format!("{lead}{what}"));
            }
            Event::Warning { source, what, hint } => {
                let lead = source.map(|source| format!("{source}: ")).unwrap_or_default();
                let mut text = format!("{} {lead}{what}", self.paint("33;1", "warning:"));
                if let Some(hint) = hint {
                    let _ = write!(text, "\n{} {hint}", self.paint("36", "   hint:"));
                }
                self.print(&text);
            }
            Event::Tampering { object, what } => self.print(&format!("TAMPERING {object}: {what}")),
            Event::PackStored { size_bytes } if self.verbose => {
                self.print(&format!("stored a pack of {}", ByteCount(size_bytes)));
            }
            Event::Committed { snapshot } if self.verbose => self.print(&format!("committed {snapshot}")),
            Event::Copied { snapshot } => self.print(&format!("copied {snapshot}")),
            Event::Step { .. } | Event::PackStored { .. } | Event::Committed { .. } => {}
        }
    }
}

/// Writes to stderr. That nobody listens there any more must not stop a backup, so nothing fails here.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Returns an empty table with these headings, plain enough for a log and for a narrow terminal.
pub fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(headings.iter().copied());
    table
}
