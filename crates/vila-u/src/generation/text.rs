//! Text: the language model continues a prompt of text and visual tokens, token by token.

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};

use super::{
    batch::{DecodeBatch, Prompt},
    read_floats,
    sampling::{Sampler, Sampling},
};
use crate::{Result, language::Llama};

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
    options.sampling.check()?;
    let max_tokens = options.max_tokens.min(prompt.room(llm)?);
    let (mut batch, mut hidden) = DecodeBatch::prefill(llm, prompt, max_tokens);
    let [count, _] = hidden.dims();
    let mut samplers = Sampler::rows(options.sampling, options.seed, 0..count);
    let mut written = vec![Vec::new(); count];
    let ended = |row: &Vec<i64>| row.last().is_some_and(|token| options.stop.contains(token));

    for step in 0..max_tokens {
        let logits = llm.logits(hidden.unsqueeze_dim(1));
        let [_, _, vocabulary] = logits.dims();
        let logits = read_floats(logits)?;
        // DecodeBatch that have ended are fed token 0 until the others have too.
        let mut next = vec![0; count];
        for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
            if ended(&written[row]) {
                continue;
            }
            next[row] = samplers[row].sample(logits)? as i64;
            written[row].push(next[row]);
            if on_token(row, next[row]).is_break() {
                return Ok(written);
            }
        }
        if step + 1 == max_tokens || written.iter().all(ended) {
            break;
        }
        let next = TensorData::new(next, [count, 1]);
        let next = Tensor::from_data(next, &llm.device());
        hidden = batch.step(llm.embed(next).squeeze_dim(1));
    }
    Ok(written)
}
