//! The text of a reply: from logits to tokens to words.

use super::{
    request::{Chat, Event, FinishReason, Listener, Logprobs, TokenLogprob},
    stop_text::StopText,
};
use crate::{
    Result,
    generation::{interleaved::Modality, sampling::Sampler},
    text::{TextStream, Tokenizer},
};

pub(super) struct TextReply<'a> {
    tokenizer: &'a Tokenizer,
    sampler: Sampler,
    stream: TextStream<'a>,
    stop: StopText,
    /// Tokens that it may still get.
    pub left: usize,
    top_logprobs: Option<usize>,
    /// Of tokens whose text has not been told.
    logprobs: Vec<Logprobs>,
    /// What the model could open in the reply, and whether it may.
    modalities: Vec<Modality>,
    visual: bool,
    /// A stop text has come: what follows it is nobody's.
    stopped: bool,
}

/// What follows a token.
pub(super) enum Next {
    /// The model reads the token.
    Read,
    /// It also opens an image or a video.
    Open(Modality),
    End(FinishReason),
}

impl<'a> TextReply<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        chat: &Chat,
        sampler: Sampler,
        left: usize,
        modalities: Vec<Modality>,
    ) -> Self {
        Self {
            tokenizer,
            sampler,
            stream: tokenizer.stream(),
            stop: StopText::new(&chat.stop),
            left,
            top_logprobs: chat.top_logprobs,
            logprobs: Vec::new(),
            modalities,
            visual: chat.visual,
            stopped: false,
        }
    }

    /// The next token.
    ///
    /// - `room`: positions that the model's context has left
    /// - `image_tokens`: visual tokens of an image
    pub(super) fn sample(
        &mut self,
        logits: &mut [f32],
        room: usize,
        image_tokens: usize,
    ) -> Result<i64> {
        for modality in &self.modalities {
            // With the tokens that start and end it.
            let needed = modality.frames.saturating_mul(image_tokens) + 2;
            if let Some(logit) = logits.get_mut(modality.start as usize)
                && (!self.visual || needed > room)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
        let token = self.sampler.sample(logits)?;
        if let Some(count) = self.top_logprobs {
            let logprobs = self.logprobs(logits, token, count);
            self.logprobs.push(logprobs);
        }
        self.left = self.left.saturating_sub(1);
        Ok(token as i64)
    }

    /// Tells what the token adds to the text.
    pub(super) fn push(&mut self, token: i64, listener: &mut Listener) -> Next {
        let ended = token == self.tokenizer.eos_token_id();
        let (text, stopped) = self.stop.push(&self.stream.push(token));
        self.stopped = stopped;
        self.tell(text, listener);
        if ended || stopped {
            return Next::End(FinishReason::Stop);
        }
        let opened = self.modalities.iter().find(|one| one.start == token);
        match opened {
            Some(modality) => Next::Open(modality.clone()),
            None if self.left == 0 => Next::End(FinishReason::Length),
            None => Next::Read,
        }
    }

    /// Tells what the last tokens left unfinished, unless the reply ended before a stop text.
    pub(super) fn finish(&mut self, listener: &mut Listener) {
        if self.stopped {
            return;
        }
        let rest = std::mem::replace(&mut self.stream, self.tokenizer.stream()).finish();
        let (mut text, stopped) = self.stop.push(&rest);
        if !stopped {
            text += &self.stop.finish();
        }
        self.tell(text, listener);
    }

    fn tell(&mut self, text: String, listener: &mut Listener) {
        if !text.is_empty() || !self.logprobs.is_empty() {
            let logprobs = std::mem::take(&mut self.logprobs);
            listener.tell(Event::Text { text, logprobs });
        }
    }

    fn logprobs(&self, logits: &[f32], sampled: usize, count: usize) -> Logprobs {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits
            .iter()
            .map(|logit| f64::from(logit - best).exp())
            .sum();
        let log_total = f64::from(best) + total.ln();
        let one = |token: usize| TokenLogprob {
            token: token as i64,
            bytes: self.tokenizer.token_bytes(token as i64),
            logprob: (f64::from(logits[token]) - log_total) as f32,
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let count = count.min(order.len());
        let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]);
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by_logit);
        }
        order.truncate(count);
        order.sort_by(by_logit);
        Logprobs {
            sampled: one(sampled),
            top: order.into_iter().map(one).collect(),
        }
    }
}
