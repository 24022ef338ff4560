//! What a person sees: results on standard output, progress and messages on standard error,
//! and Ctrl-C turned into a flag that long work looks at.

use std::{
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

    /// A line for the person, on standard error.
    pub fn say(&self, line: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        let bar = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        match &*bar {
            Some(bar) => bar.bar.suspend(|| eprintln!("{}", line.as_ref())),
            None => eprintln!("{}", line.as_ref()),
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

    /// Exactly this, on standard output, at once.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
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
            eprintln!("warning: signal {signal} will not save work in progress: {error}");
        }
    }

    /// Lets the signal with which systems end a program do the same as Ctrl-C.
    pub fn stop_on_termination(&self) {
        self.stop_on(SIGTERM);
    }

    /// Set once the person has pressed Ctrl-C.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stopped.clone()
    }

    /// Shows that `done` of `total` steps of `what` are done, with rate and time left.
    pub fn progress(&self, what: &str, done: u64, total: u64, note: &str) {
        if self.quiet {
            return;
        }
        let mut slot = self.bar.lock().unwrap_or_else(|e| e.into_inner());
        let bar = match &mut *slot {
            Some(bar) if bar.what == what => bar,
            slot => slot.insert(Bar::new(what, done.saturating_sub(1), total)),
        };
        bar.update(done, total, note);
        if done >= total {
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
    fn new(what: &str, before: u64, total: u64) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(total)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left {msg}",
        );
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

    fn update(&mut self, done: u64, total: u64, note: &str) {
        self.bar.set_position(done);
        self.bar.set_message(note.to_string());
        if done >= total {
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
        let left = (total - done.min(total)) as f64 / rate.max(1e-9);
        eprintln!(
            "{} {done}/{total}, {rate:.2}/s, {left:.0} s left {note}",
            self.what
        );
    }
}
