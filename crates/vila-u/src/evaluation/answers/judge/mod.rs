//! A language model that says whether a reply means the same as the right answer: the protocol of Video-ChatGPT
//! (arXiv 2306.05424, section 4.3; `quantitative_evaluation/evaluate_activitynet_qa.py` of
//! <https://github.com/mbzuai-oryx/Video-ChatGPT>), by which zero-shot answers about videos are scored.

mod client;
mod prompt;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

pub use prompt::JudgePrompt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::OnProgress;
use crate::{
    Error, Result,
    evaluation::{
        record::hex,
        sample_log::{Sample, SampleLog},
    },
};
use client::Client;
pub(super) use verdict::Verdict;

/// Requests at the same time.
const AT_ONCE: usize = 8;

/// How often a judge is asked again that gives no verdict.
const MORE_REPLIES: usize = 2;

/// How often it is looked whether the work is to be stopped.
const POLL: Duration = Duration::from_millis(100);

/// A language model behind an OpenAI-compatible API.
#[derive(Debug)]
pub struct Judge {
    client: Client,
    url: String,
    model: String,
    prompt: JudgePrompt,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub question: &'a str,
    pub answer: &'a str,
    pub prediction: &'a str,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Judged {
    /// In the order of the cases; none where the judge gave none.
    pub verdicts: Vec<Option<Verdict>>,
    /// Replies of this run in which there was no verdict.
    pub nonsense: usize,
}

impl Judge {
    /// - `url`: as `https://api.openai.com/v1`
    /// - `key`: sent as `Authorization: Bearer`, where the server wants one
    ///
    /// A usage error where `url` is none of the web.
    pub fn new(url: &str, model: &str, key: Option<String>, prompt: JudgePrompt) -> Result<Self> {
        Ok(Self {
            client: Client::new(url, key)?,
            url: url.into(),
            model: model.into(),
            prompt,
        })
    }

    /// Who judges, for a record.
    pub(super) fn settings(&self) -> Value {
        json!({
            "url": self.url,
            "model": self.model,
            "temperature": if self.client.own_temperature() { json!("its own") } else { json!(0) },
            "prompt_sha256": self.prompt.sha256(),
        })
    }

    /// Judges all cases, several at once. Verdicts are kept in `folder`, and none that is there is asked for again.
    ///
    /// A judge that gives no verdict is asked twice more, at temperature 1. An error when it cannot be reached, refuses a
    /// request, or is busy for long; [`Error::Interrupted`] when `on_progress` stops it.
    pub(super) fn judge(
        &self,
        cases: &[Case],
        folder: &Path,
        on_progress: OnProgress,
    ) -> Result<Judged> {
        let (mut log, kept) = SampleLog::resume(folder)?;
        let kept = kept.into_iter();
        let kept =
            kept.filter_map(|Sample { id, values }| Some((id, Verdict::from_values(&values)?)));
        let mut verdicts: HashMap<String, Verdict> = kept.collect();
        let messages = cases.iter().map(|case| self.prompt.messages(case));
        let asked: Vec<_> = messages
            .map(|messages| (self.name(&messages), messages))
            .collect();
        let mut seen = HashSet::new();
        // The same reply to the same question is judged once.
        let new = |(name, _): &&(String, Value)| {
            !verdicts.contains_key(name) && seen.insert(name.clone())
        };
        let left: Vec<_> = asked.iter().filter(new).collect();
        let (mut done, mut nonsense) = (0, 0);
        let (stop, next) = (&AtomicBool::new(false), &AtomicUsize::new(0));
        thread::scope(|scope| {
            let (sender, judged) = mpsc::channel();
            for _ in 0..AT_ONCE.min(left.len()) {
                let (sender, left) = (sender.clone(), &left);
                scope.spawn(move || {
                    while let Some((name, messages)) =
                        left.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let verdict = self.verdict(messages, stop);
                        if sender.send((name, verdict)).is_err() || stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut ended = Ok(());
            // After an error, until those that are asked already have answered.
            loop {
                let kept = match judged.recv_timeout(POLL) {
                    Ok((name, verdict)) => verdict.and_then(|(verdict, wrong)| {
                        done += 1;
                        nonsense += wrong;
                        let Some(verdict) = verdict else {
                            return Ok(());
                        };
                        verdicts.insert(name.clone(), verdict);
                        let (id, values) = (name.clone(), verdict.values());
                        log.append(&Sample { id, values })
                    }),
                    Err(RecvTimeoutError::Timeout) => Ok(()),
                    Err(RecvTimeoutError::Disconnected) => return ended,
                };
                ended = ended.and(kept);
                if ended.is_ok() && !on_progress("judging", done, left.len()) {
                    ended = Err(Error::Interrupted);
                }
                stop.store(ended.is_err(), Ordering::Relaxed);
            }
        })?;
        Ok(Judged {
            verdicts: asked
                .iter()
                .map(|(name, _)| verdicts.get(name).copied())
                .collect(),
            nonsense,
        })
    }

    /// The verdict, if there is one, and how many replies had none.
    fn verdict(&self, messages: &Value, stop: &AtomicBool) -> Result<(Option<Verdict>, usize)> {
        for wrong in 0..=MORE_REPLIES {
            let temperature = if wrong == 0 { 0.0 } else { 1.0 };
            let reply = self
                .client
                .complete(&self.model, messages, temperature, stop)?;
            if let Some(verdict) = Verdict::parse(&reply) {
                return Ok((Some(verdict), wrong));
            }
        }
        Ok((None, MORE_REPLIES + 1))
    }

    /// What a verdict is kept under.
    fn name(&self, messages: &Value) -> String {
        hex(Sha256::new().chain_update(format!("{}\0{messages}", self.model)))
    }
}
