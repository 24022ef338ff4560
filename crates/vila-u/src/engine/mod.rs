//! Continuous batching: requests of all kinds share the steps of one model, and join and leave at any token.
//!
//! Each step reads one position of every sequence that generates, a chunk of a prompt that is new, and samples a token
//! of text or the codes of a visual token for each. What a request gets does not depend on its neighbours: each has a
//! key/value cache, sampling settings and random choices of its own.
//!
//! A prompt that begins like one that was read before, by a request that runs or has ended, is read from there on.

mod admission;
mod prefix_cache;
mod prompt;
mod reply;
mod request;
mod sequence;
mod stop_text;
#[cfg(test)]
mod tests;
mod text;
mod visual;

use std::collections::VecDeque;

pub use request::{
    Chat, Content, Event, FinishReason, Generation, Logprobs, Message, OnEvent, Request, Role,
    TokenLogprob, Usage, VisualKind,
};

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::{Error, Pipeline, Result, checkpoint::Checkpoint, device::read_floats, memory};
use prefix_cache::PrefixCache;
use prompt::{PromptReader, visual_id};
use reply::{Prepared, Running};
use request::Listener;
use sequence::Sequence;

/// Bounds of an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Requests that run together at most.
    pub max_running: usize,
    /// Bytes that keys and values may take, those of kept prompts included. A request that needs more runs alone.
    /// \[half of the device's memory that is free, 4 GiB where that is not known\]
    pub cache_bytes: Option<u64>,
    /// Positions of new prompts that are read in one step: a long prompt keeps the others waiting no longer.
    pub prefill_chunk: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_running: 64,
            cache_bytes: None,
            prefill_chunk: 128,
        }
    }
}

/// What an engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Requests that wait for memory, or for another that reads what they begin with.
    pub waiting: usize,
    pub running: usize,
    /// Bytes of keys and values, of running requests and of kept prompts.
    pub cache_bytes: u64,
    /// Text and visual tokens generated since the start.
    pub generated_tokens: u64,
    /// Prompt positions of the requests since the start, and those of them that had been read before.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
}

/// Runs the requests that it is given, all of them a token further at each step.
///
/// ```
/// use std::ops::ControlFlow;
/// use vila_u::{Pipeline, engine::{Chat, Engine, EngineOptions, Event, Message, Request}};
///
/// let pipeline = Pipeline::from_pretrained("nano")?;
/// let mut engine = Engine::new(&pipeline, EngineOptions::default())?;
/// for question in ["What has four legs?", "What can fly?"] {
///     let request = Request::Chat(Chat::new(vec![Message::user(question)]));
///     engine.submit(request, Box::new(move |event| {
///         if let Event::Text { text, .. } = event {
///             println!("{question}{text}");
///         }
///         ControlFlow::Continue(())
///     }));
/// }
/// while engine.step() {}
/// # Ok::<(), vila_u::Error>(())
/// ```
pub struct Engine<'a> {
    pipeline: &'a Pipeline,
    checkpoint: &'a Checkpoint,
    options: EngineOptions,
    cache_bytes: u64,
    waiting: VecDeque<Waiting<'a>>,
    running: Vec<Running<'a>>,
    reader: PromptReader,
    kept: PrefixCache,
    statistics: Statistics,
}

struct Waiting<'a> {
    request: Request,
    listener: Listener<'a>,
    prepared: Option<Prepared<'a>>,
}

impl<'a> Engine<'a> {
    /// A usage error where the vision tower was loaded alone.
    pub fn new(pipeline: &'a Pipeline, options: EngineOptions) -> Result<Self> {
        let cache_bytes = options.cache_bytes.unwrap_or_else(|| {
            let free = memory::free(&pipeline.device());
            free.map_or(4 << 30, |free| free / 2)
        });
        Ok(Self {
            pipeline,
            checkpoint: pipeline.checkpoint()?,
            options,
            cache_bytes,
            waiting: VecDeque::new(),
            running: Vec::new(),
            reader: PromptReader::new(),
            kept: PrefixCache::new(),
            statistics: Statistics::default(),
        })
    }

    /// The model.
    pub fn pipeline(&self) -> &'a Pipeline {
        self.pipeline
    }

    /// Puts a request behind those that wait.
    pub fn submit(&mut self, request: Request, on_event: OnEvent<'a>) {
        self.waiting.push_back(Waiting {
            request,
            listener: Listener::new(on_event),
            prepared: None,
        });
    }

    /// One more token for every running request. `false` when there is nothing to do.
    pub fn step(&mut self) -> bool {
        self.admit();
        if self.running.is_empty() {
            return !self.waiting.is_empty();
        }
        for one in &mut self.running {
            if one.usage.completion_tokens == 0 {
                one.listener.tell(Event::Waiting);
            }
        }
        let sequences = self.running.iter_mut().flat_map(Running::sequences_mut);
        sequence::read(
            &self.checkpoint.model.llm,
            sequences,
            self.options.prefill_chunk,
        );
        // Text first: a visual token takes as long as several of text.
        self.sample_text();
        self.sample_visual();
        self.finish();
        true
    }

    pub fn statistics(&self) -> Statistics {
        let sequences = self.running.iter().flat_map(Running::sequences);
        Statistics {
            waiting: self.waiting.len(),
            running: self.running.len(),
            cache_bytes: self.kept.bytes() + sequences.map(Sequence::bytes).sum::<u64>(),
            ..self.statistics
        }
    }

    /// One more visual token for each image and video whose sequences have read all they had to.
    fn sample_visual(&mut self) {
        let model = &self.checkpoint.model;
        let ready = self.running.iter_mut().filter(|one| one.is_ready());
        let mut ready: Vec<_> = ready.filter(|one| one.reply.visual.is_some()).collect();
        let mut replies: Vec<_> = ready
            .iter_mut()
            .filter_map(|one| {
                let with = one.sequence.hidden.clone()?;
                let without = one.unconditional.as_ref();
                let without = without.and_then(|(sequence, _)| sequence.hidden.clone());
                Some((with, without, one.reply.visual.as_mut()?))
            })
            .collect();
        if replies.is_empty() {
            return;
        }
        let sampled = visual::sample(model, &mut replies);
        let (embeds, outcomes) = match sampled {
            Ok(sampled) => sampled,
            Err(error) => {
                let message = error.to_string();
                ready
                    .iter_mut()
                    .for_each(|one| one.fail(Error::failed(&message)));
                return;
            }
        };
        for (index, (one, outcome)) in ready.into_iter().zip(outcomes).enumerate() {
            self.statistics.generated_tokens += 1;
            // No prompt has it: nobody else reads on from here.
            let id = visual_id(self.statistics.generated_tokens, 0);
            let embed = embeds.clone().narrow(0, index, 1);
            let read = outcome.and_then(|()| one.read_visual(model, embed, id));
            if let Err(error) = read {
                one.fail(error);
            }
        }
    }

    /// One more token of text for each conversation that has read all it had to.
    fn sample_text(&mut self) {
        let model = &self.checkpoint.model;
        let (context, image_tokens) = (model.llm.context_length(), model.image_tokens());
        let running = self.running.iter_mut().enumerate();
        let mut ready: Vec<_> = running
            .filter(|(_, one)| one.reply.visual.is_none() && one.reply.text.is_some())
            .filter(|(_, one)| one.is_ready() && !one.ended)
            .collect();
        let hidden = ready
            .iter()
            .filter_map(|(_, one)| one.sequence.hidden.clone());
        let hidden: Vec<Tensor<2>> = hidden.collect();
        if hidden.is_empty() {
            return;
        }
        let logits = model.llm.logits(Tensor::cat(hidden, 0).unsqueeze_dim(1));
        let [_, _, vocabulary] = logits.dims();
        let mut logits = match read_floats(logits.cast(DType::F32)) {
            Ok(logits) => logits,
            Err(error) => {
                let message = error.to_string();
                ready
                    .iter_mut()
                    .for_each(|(_, one)| one.fail(Error::failed(&message)));
                return;
            }
        };
        let texts = ready.iter_mut().filter_map(|(_, one)| {
            let room = context.saturating_sub(one.sequence.filled());
            Some((room, one.reply.text.as_mut()?))
        });
        let sampled: Vec<Result<i64>> = texts
            .collect::<Vec<_>>()
            .into_par_iter()
            .zip(logits.par_chunks_exact_mut(vocabulary))
            .map(|((room, text), logits)| text.sample(logits, room, image_tokens))
            .collect();
        let mut opened = Vec::new();
        for ((index, one), token) in ready.into_iter().zip(sampled) {
            self.statistics.generated_tokens += 1;
            match token.map(|token| one.read_text(&model.llm, token)) {
                Ok(modality) => opened.extend(modality.map(|modality| (index, modality))),
                Err(error) => one.fail(error),
            }
        }
        for (index, modality) in opened {
            self.open(index, &modality);
        }
    }

    /// Forgets the requests that have ended or that nobody listens to, but for what others may begin with.
    fn finish(&mut self) {
        let ended = self
            .running
            .extract_if(.., |one| one.ended || one.listener.gone);
        for one in ended.collect::<Vec<_>>() {
            self.keep(one);
        }
    }
}
