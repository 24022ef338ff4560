//! What the server counts, in the text format of Prometheus.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use vila_u::engine::Statistics;

/// Upper bounds in seconds.
const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Tokens a second are those of so much time.
const RATE_WINDOW: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Metrics {
    pub connections: AtomicUsize,
    pub in_flight: AtomicUsize,
    /// From the arrival of a request for the model to its prompt being read, to its first token, to its end.
    pub queued: Histogram,
    pub first_token: Histogram,
    pub answered: Histogram,
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    engine: Mutex<EngineCounters>,
}

#[derive(Default)]
struct EngineCounters {
    statistics: Statistics,
    rate: f64,
    /// When a rate was last taken, and at how many tokens.
    since: Option<(Instant, u64)>,
    /// Of engines that were replaced.
    before: Statistics,
}

#[derive(Default)]
pub struct Histogram {
    /// Observations up to each bound and above the bound before it; the last is for all others.
    counts: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound);
        let count = &self.counts[place.unwrap_or(BOUNDS.len())];
        count.fetch_add(1, Ordering::Relaxed);
        let time = time.as_micros() as u64;
        self.microseconds.fetch_add(time, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        head(text, name, help, "histogram");
        let mut sum = 0;
        for (index, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = BOUNDS.get(index);
            let bound = bound.map_or("+Inf".into(), |bound| bound.to_string());
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{name}_sum {seconds}\n{name}_count {sum}");
    }
}

impl Metrics {
    /// A request of a route was answered.
    pub fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.into(), status)).or_default() += 1;
    }

    /// What the engine says after a step.
    pub fn engine(&self, statistics: &Statistics) {
        let mut counters = self.engine_counters();
        let now = *statistics;
        // A new engine counts from 0.
        if now.generated_tokens < counters.statistics.generated_tokens {
            let old = counters.statistics;
            counters.before.generated_tokens += old.generated_tokens;
            counters.before.prompt_tokens += old.prompt_tokens;
            counters.before.cached_tokens += old.cached_tokens;
            counters.since = None;
        }
        counters.statistics = now;
        let tokens = now.generated_tokens;
        match counters.since {
            Some((since, before)) if since.elapsed() >= RATE_WINDOW => {
                counters.rate =
                    tokens.saturating_sub(before) as f64 / since.elapsed().as_secs_f64();
                counters.since = Some((Instant::now(), tokens));
            }
            None => counters.since = Some((Instant::now(), tokens)),
            Some(_) => {}
        }
    }

    /// The engine has nothing to do.
    pub fn idle(&self) {
        let mut counters = self.engine_counters();
        counters.rate = 0.0;
        counters.since = None;
    }

    /// All of it; `waiting` and `unfinished` requests for the model.
    pub fn text(&self, waiting: usize, unfinished: usize) -> String {
        let mut text = String::new();
        let out = &mut text;
        let (statistics, before, rate) = {
            let counters = self.engine_counters();
            (counters.statistics, counters.before, counters.rate)
        };
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "vila_u_requests_total";
        head(out, name, "HTTP requests answered", "counter");
        for ((route, status), count) in requests.iter() {
            let _ = writeln!(
                out,
                "{name}{{route=\"{route}\",status=\"{status}\"}} {count}"
            );
        }
        drop(requests);
        let connections = self.connections.load(Ordering::Relaxed);
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("connections", "Open connections", connections as f64),
            (
                "requests_in_flight",
                "HTTP requests being answered",
                in_flight as f64,
            ),
            (
                "queue_length",
                "Requests for the model that wait",
                waiting as f64,
            ),
            (
                "requests_unfinished",
                "Requests for the model, waiting or running",
                unfinished as f64,
            ),
            (
                "requests_running",
                "Requests that the engine runs together",
                statistics.running as f64,
            ),
            (
                "requests_waiting",
                "Requests that wait in the engine, for memory mostly",
                statistics.waiting as f64,
            ),
            (
                "cache_bytes",
                "Keys and values of running requests and kept prompts",
                statistics.cache_bytes as f64,
            ),
            (
                "tokens_per_second",
                "Text and visual tokens generated in the last second",
                rate,
            ),
        ] {
            let name = format!("vila_u_{name}");
            head(out, &name, help, "gauge");
            let _ = writeln!(out, "{name} {value}");
        }
        if let Some(bytes) = resident_bytes() {
            let name = "process_resident_memory_bytes";
            head(out, name, "Resident memory of the server", "gauge");
            let _ = writeln!(out, "{name} {bytes}");
        }
        for (name, help, value) in [
            (
                "generated_tokens",
                "Text and visual tokens generated",
                before.generated_tokens + statistics.generated_tokens,
            ),
            (
                "prompt_tokens",
                "Prompt positions read",
                before.prompt_tokens + statistics.prompt_tokens,
            ),
            (
                "cached_tokens",
                "Prompt positions that the prefix cache had",
                before.cached_tokens + statistics.cached_tokens,
            ),
        ] {
            let name = format!("vila_u_{name}_total");
            head(out, &name, help, "counter");
            let _ = writeln!(out, "{name} {value}");
        }
        for (name, help, histogram) in [
            (
                "queue_seconds",
                "From a request for the model to its start",
                &self.queued,
            ),
            (
                "time_to_first_token_seconds",
                "From a request for the model to its first token",
                &self.first_token,
            ),
            (
                "request_seconds",
                "From an HTTP request to the end of its answer",
                &self.answered,
            ),
        ] {
            histogram.write(out, &format!("vila_u_{name}"), help);
        }
        text
    }

    fn engine_counters(&self) -> std::sync::MutexGuard<'_, EngineCounters> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Known on Linux.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}
