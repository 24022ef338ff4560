//! What a person sees: results on standard output, progress and messages on standard error,
//! and Ctrl-C (or what else asks the program to end) turned into a flag that long work looks at.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use vila_u::{Error, Result};

use crate::arguments::Global;

/// Plain progress lines come at most this often when standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Console {
    pub json: bool,
    quiet: bool,
    stopped: Arc<AtomicBool>,
    bar: Arc<Mutex<Option<Bar>>>,
}

struct Bar {
    bar: ProgressBar,
    what: String,
    /// What was done before this program did anything: a resumed run starts in the middle.
    before: u64,
    started: Instant,
    last_line: Option<Instant>,
}

impl Console {
    pub fn new(global: &Global) -> Self {
        let console = Self {
            json: global.json,
            quiet: global.quiet,
            stopped: Arc::new(AtomicBool::new(false)),
            bar: Arc::new(Mutex::new(None)),
        };
        console.stop_on(SIGINT);
        console
    }

    /// Lets the signals with which systems end a program, and terminals that are closed, do the same as Ctrl-C: for
    /// work that looks whether it is to stop, and would leave something half-done.
    pub fn stop_on_termination(&self) {
        self.stop_on(SIGTERM);
        // `nohup` keeps this one off.
        #[cfg(unix)]
        if !is_ignored(libc::SIGHUP) {
            self.stop_on(libc::SIGHUP);
        }
        // Schedulers send this one before a job's time is over, to whoever started a process as well: it may come more
        // than once.
        #[cfg(unix)]
        if let Err(error) = flag::register(libc::SIGUSR1, self.stopped.clone()) {
            message(&format!(
                "warning: SIGUSR1 will not save work in progress: {error}"
            ));
        }
    }

    /// A line for the person, on standard error.
    pub fn say(&self, line: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        match &*bar {
            Some(bar) => bar.bar.suspend(|| message(line.as_ref())),
            None => message(line.as_ref()),
        }
    }

    /// The result, on standard output: `text` for people, `value` with --json.
    pub fn result(&self, text: impl AsRef<str>, value: Value) -> Result<()> {
        let line = if self.json {
            value.to_string()
        } else {
            text.as_ref().to_string()
        };
        self.print(&format!("{line}\n"))
    }

    /// This text, on standard output, at once.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(printable(text, self.json).as_bytes())
            .and_then(|()| out.flush())
            .map_err(|e| Error::failed(format!("cannot write to standard output: {e}")))
    }

    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Lets a signal ask for a stop; the second one ends the program at once.
    fn stop_on(&self, signal: i32) {
        // In this order: what ends the program must not see what the same signal sets.
        let ends = flag::register_conditional_shutdown(signal, 128 + signal, self.stopped.clone());
        let set = ends.and_then(|_| flag::register(signal, self.stopped.clone()));
        if let Err(error) = set {
            message(&format!(
                "warning: signal {signal} will not save work in progress: {error}"
            ));
        }
    }

    /// Set once the program is asked to end.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stopped.clone()
    }

    /// Shows that `done` of `total` steps of `what` are done, with rate and time left.
    pub fn progress(&self, what: &str, done: u64, total: u64, note: &str) {
        self.show(what, done, Some(total), note);
    }

    /// The same of as many steps as there turn out to be.
    pub fn count(&self, what: &str, done: u64) {
        self.show(what, done, None, "");
    }

    fn show(&self, what: &str, done: u64, total: Option<u64>, note: &str) {
        if self.quiet {
            return;
        }
        let mut slot = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        let bar = match &mut *slot {
            Some(bar) if bar.what == what => bar,
            slot => slot.insert(Bar::new(what, done.saturating_sub(1), total)),
        };
        bar.update(done, total, note);
        if total.is_some_and(|total| done >= total) {
            *slot = None;
        }
    }

    /// Takes the progress bar away.
    pub fn finish(&self) {
        let mut slot = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(bar) = slot.take() {
            bar.bar.finish_and_clear();
        }
    }
}

impl Bar {
    fn new(what: &str, before: u64, total: Option<u64>) -> Self {
        let bar = match total {
            _ if !std::io::stderr().is_terminal() => ProgressBar::hidden(),
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let style = ProgressStyle::with_template(match total {
            Some(_) => "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left {msg}",
            None => "{prefix} {pos} {per_sec}",
        });
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_string());
        bar.set_position(before);
        bar.reset_eta();
        Self {
            bar,
            what: what.to_string(),
            before,
            started: Instant::now(),
            last_line: None,
        }
    }

    fn update(&mut self, done: u64, total: Option<u64>, note: &str) {
        self.bar.set_position(done);
        self.bar.set_message(note.to_string());
        if total.is_some_and(|total| done >= total) {
            self.bar.finish_and_clear();
        }
        if std::io::stderr().is_terminal() {
            return;
        }
        let since = self.last_line.unwrap_or(self.started);
        if since.elapsed() < LINE_EVERY {
            return;
        }
        self.last_line = Some(Instant::now());
        let rate = done.saturating_sub(self.before) as f64 / self.started.elapsed().as_secs_f64();
        let what = &self.what;
        message(&match total {
            Some(total) => {
                let left = (total - done.min(total)) as f64 / rate.max(1e-9);
                format!("{what} {done}/{total}, {rate:.2}/s, {left:.0} s left {note}")
            }
            None => format!("{what} {done}, {rate:.2}/s"),
        });
    }
}

/// A line on standard error. That nobody can read it there (closed, or on a full disk) is no reason to lose a result.
pub fn message(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line, false));
}

/// The text without characters by which data could command the terminal: they are spelt out. `json`: as JSON has them.
fn printable(text: &str, json: bool) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let spell = |c: char| match c {
        c if !commands(c) => c.to_string(),
        c if json => format!("\\u{:04x}", u32::from(c)),
        c => c.escape_default().to_string(),
    };
    Cow::Owned(text.chars().map(spell).collect())
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: with no new action, this only reads the old one, all of which may be zeros.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let read = libc::sigaction(signal, std::ptr::null(), &mut action);
        read == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_commands_no_terminal() {
        assert_eq!(printable("a\tb\nä", false), "a\tb\nä");
        let text = "red\u{1b}[31m\u{9b}2J\u{7f}\r";
        assert_eq!(printable(text, false), "red\\u{1b}[31m\\u{9b}2J\\u{7f}\\r");
        let json = serde_json::to_string(text).unwrap_or_default();
        let shown = printable(&json, true);
        assert!(!shown.chars().any(char::is_control), "{shown}");
        let back = serde_json::from_str::<String>(&shown);
        assert_eq!(back.ok().as_deref(), Some(text));
    }
}
