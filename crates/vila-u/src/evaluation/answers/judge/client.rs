//! Chat completions of any server with OpenAI's API.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use ureq::{Agent, http::StatusCode};

use crate::{Error, Result};

/// How often a request is sent that the server has no time for.
const TRIES: u32 = 8;
/// Between the first two tries; twice as long after every further one.
const WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A server that asks for more is not waited for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes of an answer.
const LARGEST: u64 = 1 << 20;
/// Letters of a server's message.
const LONGEST_MESSAGE: usize = 200;

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
    /// Whether the server ever answered: one that cannot be reached at all is not waited for.
    reached: AtomicBool,
    /// Whether its model takes no temperature, as models that reason do not.
    own_temperature: AtomicBool,
}

/// Why a request has no reply.
enum Failure {
    /// Another try may have one, after so long if the server says so.
    Passing(String, Option<Duration>),
    Lasting(String),
}

impl Client {
    /// - `url`: as `https://api.openai.com/v1`, or the whole address of its chat completions
    pub(super) fn new(url: &str, key: Option<String>) -> Result<Self> {
        const PATH: &str = "/chat/completions";
        if !["http://", "https://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err(Error::usage(format!(
                "the judge's address {url:?} is none: give one such as https://api.openai.com/v1"
            )));
        }
        let url = url.trim_end_matches('/');
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .user_agent("vila-u")
            .build();
        Ok(Self {
            agent: config.into(),
            url: if url.ends_with(PATH) {
                url.into()
            } else {
                format!("{url}{PATH}")
            },
            key: key.filter(|key| !key.is_empty()),
            reached: AtomicBool::new(false),
            own_temperature: AtomicBool::new(false),
        })
    }

    /// Whether the model chooses its temperature itself.
    pub(super) fn own_temperature(&self) -> bool {
        self.own_temperature.load(Ordering::Relaxed)
    }

    /// The reply to messages. A server that is busy (429) or fails (5xx) is asked again, after what its `Retry-After` says
    /// or twice as long each time. [`Error::Interrupted`] once `stop` is set.
    pub(super) fn complete(
        &self,
        model: &str,
        messages: &Value,
        temperature: f64,
        stop: &AtomicBool,
    ) -> Result<String> {
        let failed = |reason: String| Error::failed(format!("the judge at {}: {reason}", self.url));
        let (mut wait, mut tries) = (WAIT, 0);
        loop {
            let mut request = json!({"model": model, "messages": messages});
            if !self.own_temperature() {
                request["temperature"] = temperature.into();
            }
            let (reason, after) = match self.send(&request.to_string()) {
                Ok(reply) => return Ok(reply),
                Err(Failure::Lasting(reason)) => {
                    let refused = reason.contains("temperature");
                    if refused && request.get("temperature").is_some() {
                        self.own_temperature.store(true, Ordering::Relaxed);
                        continue;
                    }
                    return Err(failed(reason));
                }
                Err(Failure::Passing(reason, after)) => (reason, after),
            };
            tries += 1;
            let after = after.unwrap_or(wait);
            if tries == TRIES || after > LONGEST_RETRY_AFTER {
                return Err(failed(format!(
                    "{reason} ({tries} times): run the same command again later, what was judged is kept"
                )));
            }
            sleep(after, stop)?;
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }

    fn send(&self, request: &str) -> std::result::Result<String, Failure> {
        let mut post = self.agent.post(&self.url);
        post = post.header("content-type", "application/json");
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let mut response = post.send(request).map_err(|error| self.unsent(error))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        let after = response.headers().get("retry-after");
        let after = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
        let after = after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let body = response.body_mut().with_config().limit(LARGEST);
        let body = body.read_to_string().map_err(|error| self.unsent(error))?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        if status.is_success() {
            let reply = body["choices"][0]["message"]["content"].as_str();
            let reply = reply.map(String::from);
            return reply.ok_or_else(|| {
                Failure::Lasting("its answer is no chat completion of OpenAI's API".into())
            });
        }
        let said = [&body["error"]["message"], &body["error"], &body["message"]];
        let said = said.into_iter().find_map(Value::as_str).unwrap_or_default();
        let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = said.chars().take(LONGEST_MESSAGE).collect();
        let reason = format!("it answers {status} {said}").trim_end().to_string();
        let passing = status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        Err(if passing {
            Failure::Passing(reason, after)
        } else {
            Failure::Lasting(reason)
        })
    }

    fn unsent(&self, error: ureq::Error) -> Failure {
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
        let passing = match &error {
            ureq::Error::Io(error) => !refused(error),
            ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                true
            }
            _ => false,
        };
        let reason = format!("it cannot be reached ({error})");
        if passing && self.reached.load(Ordering::Relaxed) {
            Failure::Passing(reason, None)
        } else {
            Failure::Lasting(reason)
        }
    }
}

/// Waits, but not once `stop` is set.
fn sleep(time: Duration, stop: &AtomicBool) -> Result<()> {
    const PART: Duration = Duration::from_millis(100);
    let end = Instant::now() + time;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(PART));
    }
}
