//! Text: the language model continues a prompt of text and visual tokens, token by token.

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};

use super::{
    batch::{DecodeBatch, Prompt},
    sampling::{Sampler, Sampling},
};
use crate::{Result, device::read_floats, language::Llama};

/// How text is generated.
#[derive(Debug, Clone)]
pub struct TextOptions {
    pub sampling: Sampling,
    pub seed: u64,
    /// At most this many tokens a row, or as many as fit into the model's context.
    pub max_tokens: usize,
    /// A row ends after the first of these tokens.
    pub stop: Vec<i64>,
}

/// Continues every row of the prompt. Returns the new tokens of each row, its stop token included.
///
/// `on_token` gets each row's number and new token as soon as it is known; [`ControlFlow::Break`]
/// ends it with the tokens there are.
pub fn generate(
    llm: &Llama,
    prompt: Prompt,
    options: &TextOptions,
    on_token: &mut dyn FnMut(usize, i64) -> ControlFlow<()>,
) -> Result<Vec<Vec<i64>>> {
    let mut decoder = TextDecoder::new(llm, prompt, options)?;
    let mut generated = vec![Vec::new(); decoder.ended.len()];
    while let Some(tokens) = decoder.next(|_, _| {})? {
        for (row, token) in tokens {
            generated[row].push(token);
            if on_token(row, token).is_break() {
                return Ok(generated);
            }
        }
    }
    Ok(generated)
}

/// Text under way, one token of every row at a time.
pub(super) struct TextDecoder<'m> {
    llm: &'m Llama,
    /// What the language model has read.
    pub batch: DecodeBatch<'m>,
    /// `[rows, hidden]`, after the last position read.
    hidden: Tensor<2>,
    /// The tokens to read next, one a row.
    pub unread: Option<Vec<i64>>,
    /// Tokens that every row may still get.
    pub left: usize,
    samplers: Vec<Sampler>,
    stop: &'m [i64],
    /// Whether a row has got its stop token.
    ended: Vec<bool>,
}

impl<'m> TextDecoder<'m> {
    pub(super) fn new(llm: &'m Llama, prompt: Prompt, options: &'m TextOptions) -> Result<Self> {
        options.sampling.check()?;
        let left = options.max_tokens.min(prompt.room(llm)?);
        let (batch, hidden) = DecodeBatch::prefill(llm, prompt, left);
        let [rows, _] = hidden.dims();
        Ok(Self {
            llm,
            batch,
            hidden,
            unread: None,
            left,
            samplers: Sampler::rows(options.sampling, options.seed, 0..rows),
            stop: &options.stop,
            ended: vec![false; rows],
        })
    }

    /// The next token of each row that has not ended, with the row's number; `None` when all have, or no more
    /// tokens are left.
    ///
    /// - `mask`: may change the logits of a row before a token is sampled from them
    pub(super) fn next(
        &mut self,
        mask: impl Fn(&DecodeBatch, &mut [f32]),
    ) -> Result<Option<Vec<(usize, i64)>>> {
        if self.left == 0 || self.ended.iter().all(|ended| *ended) {
            return Ok(None);
        }
        self.left -= 1;
        if let Some(tokens) = self.unread.take() {
            let tokens = TensorData::new(tokens, [self.ended.len(), 1]);
            let tokens = Tensor::from_data(tokens, &self.llm.device());
            self.hidden = self.batch.step(self.llm.embed(tokens).squeeze_dim(1));
        }
        let logits = self.llm.logits(self.hidden.clone().unsqueeze_dim(1));
        let [_, _, vocabulary] = logits.dims();
        let mut logits = read_floats(logits)?;
        // Rows that have ended read token 0 until the others have too.
        let mut unread = vec![0; self.ended.len()];
        let mut tokens = Vec::with_capacity(unread.len());
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            if self.ended[row] {
                continue;
            }
            mask(&self.batch, logits);
            let token = self.samplers[row].sample(logits)? as i64;
            self.ended[row] = self.stop.contains(&token);
            unread[row] = token;
            tokens.push((row, token));
        }
        self.unread = Some(unread);
        Ok(Some(tokens))
    }
}
