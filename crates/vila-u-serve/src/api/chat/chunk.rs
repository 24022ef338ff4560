//! The events of a streamed answer.

use serde::Serialize;

use super::{
    Answer, Logprobs,
    reply::{Media, Usage},
};

#[derive(Serialize)]
pub struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    /// `null` in all chunks but the last, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    /// An extension: how far the picture of the reply is.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
}

#[derive(Serialize)]
struct Progress {
    done: usize,
    total: usize,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Media>,
}

impl<'a> Chunk<'a> {
    /// What is added to a reply.
    pub fn new(
        answer: &'a Answer,
        index: usize,
        delta: Delta,
        logprobs: Option<Logprobs>,
        finish_reason: Option<&'static str>,
    ) -> Self {
        let choice = Choice {
            index,
            delta,
            logprobs,
            finish_reason,
        };
        Self {
            id: &answer.id,
            object: "chat.completion.chunk",
            created: answer.created,
            model: &answer.model,
            choices: vec![choice],
            usage: answer.include_usage.then_some(None),
            progress: None,
        }
    }

    pub fn progress(answer: &'a Answer, index: usize, done: usize, total: usize) -> Self {
        Self {
            progress: Some(Progress { done, total }),
            ..Self::new(answer, index, Delta::default(), None, None)
        }
    }

    /// The last, about all replies.
    pub fn usage(answer: &'a Answer) -> Self {
        Self {
            choices: Vec::new(),
            usage: Some(Some(Usage::of(&answer.replies))),
            ..Self::new(answer, 0, Delta::default(), None, None)
        }
    }
}
