//! Rows that the language model continues together, one position at a time, with their key/value cache.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::{
    Error, Result,
    language::{KvCache, Llama, causal_mask},
};

/// Spliced embeddings to start from, padded on the left to one length.
#[derive(Clone)]
pub struct Prompt {
    embeds: Tensor<3>,
    lengths: Vec<usize>,
}

/// Prompts are read in chunks of this many positions, which bounds the memory of attention.
const PREFILL_CHUNK: usize = 512;

impl Prompt {
    /// - `embeds`: `[rows, positions, hidden]`; what is on the padding is never looked at
    /// - `lengths`: of each row, the number of its last positions that are not padding
    pub fn new(embeds: Tensor<3>, lengths: Vec<usize>) -> Result<Self> {
        let [rows, positions, _] = embeds.dims();
        if rows == 0
            || lengths.len() != rows
            || !lengths.iter().all(|l| (1..=positions).contains(l))
        {
            return Err(Error::usage("a prompt must hold at least one token"));
        }
        Ok(Self { embeds, lengths })
    }

    /// Text prompts: the token ids of each row.
    pub fn from_ids(llm: &Llama, rows: &[Vec<i64>]) -> Result<Self> {
        let vocabulary = llm.vocab_size() as i64;
        if let Some(id) = rows
            .iter()
            .flatten()
            .find(|id| !(0..vocabulary).contains(id))
        {
            return Err(Error::usage(format!(
                "token {id} is not in the model's vocabulary of {vocabulary}"
            )));
        }
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * longest);
        for row in rows {
            ids.extend(std::iter::repeat_n(0, longest - row.len()));
            ids.extend(row);
        }
        if ids.is_empty() {
            return Err(Error::usage("a prompt must hold at least one token"));
        }
        let ids = TensorData::new(ids, [rows.len(), longest]);
        let ids = Tensor::from_data(ids, &llm.device());
        Self::new(llm.embed(ids), rows.iter().map(Vec::len).collect())
    }

    /// Positions left in the model's context; an error if the prompt alone is longer.
    pub(crate) fn room(&self, llm: &Llama) -> Result<usize> {
        let [_, positions, _] = self.embeds.dims();
        let context = llm.context_length();
        context.checked_sub(positions).ok_or_else(|| {
            Error::usage(format!(
                "the prompt takes {positions} positions, and the model reads at most {context}: \
                 shorten it or give fewer images"
            ))
        })
    }
}

/// What the language model has read so far.
///
/// What it needs to know of every place in the cache is on the device from the start: a token takes parts of it
/// that are there already.
pub struct DecodeBatch<'m> {
    llm: &'m Llama,
    cache: KvCache,
    /// Of each row, the positions that are padding; all of them come first.
    padding: Vec<usize>,
    /// A row's own positions count from 0 where its padding ends, `[rows, capacity]`.
    positions: Tensor<2, Int>,
    /// What is padding, `[rows, 1, 1, capacity]`, if some row has any.
    padded: Option<Tensor<4, Bool>>,
}

impl<'m> DecodeBatch<'m> {
    fn new(llm: &'m Llama, cache: KvCache, padding: Vec<usize>, capacity: usize) -> Self {
        let (rows, device) = (padding.len(), llm.device());
        let places = || {
            padding
                .iter()
                .flat_map(|p| (0..capacity).map(move |at| (at, *p)))
        };
        let positions = places().map(|(at, padding)| at.saturating_sub(padding) as i64);
        let positions = TensorData::new(positions.collect::<Vec<_>>(), [rows, capacity]);
        let padded = padding.iter().any(|padding| *padding > 0).then(|| {
            let padded = places().map(|(at, padding)| at < padding);
            let padded = TensorData::new(padded.collect::<Vec<_>>(), [rows, 1, 1, capacity]);
            Tensor::from_data(padded, &device)
        });
        Self {
            llm,
            cache,
            positions: Tensor::from_data(positions, &device),
            padded,
            padding,
        }
    }

    /// Reads the prompt in one pass, with room for `room` more positions. Also returns the hidden state
    /// `[rows, hidden]` of every row's last position.
    pub fn prefill(llm: &'m Llama, prompt: Prompt, room: usize) -> (Self, Tensor<2>) {
        let Prompt { embeds, lengths } = prompt;
        let [rows, longest, _] = embeds.dims();
        let capacity = longest + room;
        let padding = lengths.iter().map(|length| longest - length).collect();
        let mut read = Self::new(llm, llm.cache(rows, capacity), padding, capacity);
        let first = PREFILL_CHUNK.min(longest);
        let mut hidden = read.forward(embeds.clone().narrow(1, 0, first));
        for start in (first..longest).step_by(PREFILL_CHUNK) {
            let count = PREFILL_CHUNK.min(longest - start);
            hidden = read.forward(embeds.clone().narrow(1, start, count));
        }
        (read, hidden)
    }

    /// Reads one more position of every row, `[rows, hidden]`; returns its hidden state
    /// `[rows, hidden]`.
    pub(crate) fn step(&mut self, embeds: Tensor<2>) -> Tensor<2> {
        self.forward(embeds.unsqueeze_dim(1))
    }

    /// New rows with room for `room` more positions, the `i`-th continuing row `origins[i]`.
    pub(crate) fn fork(&self, origins: &[usize], room: usize) -> Self {
        let capacity = self.cache.filled() + room;
        let cache = self.cache.fork(&self.indices(origins), capacity);
        let padding = origins.iter().map(|row| self.padding[*row]).collect();
        Self::new(self.llm, cache, padding, capacity)
    }

    /// These rows and then those of `other`, all of them up to now, with room for `room` more positions.
    pub(crate) fn concat(&self, other: &Self, room: usize) -> Self {
        let filled = self.filled().max(other.filled());
        let cache = self.cache.beside(&other.cache, filled + room);
        let padding = [self, other].into_iter().flat_map(|rows| {
            let before = filled - rows.filled();
            rows.padding.iter().map(move |padding| before + padding)
        });
        Self::new(self.llm, cache, padding.collect(), filled + room)
    }

    /// Positions read so far, those of padding included.
    pub(crate) fn filled(&self) -> usize {
        self.cache.filled()
    }

    /// Row numbers as a tensor on the model's device.
    pub(crate) fn indices(&self, rows: &[usize]) -> Tensor<1, Int> {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        Tensor::from_data(TensorData::from(rows.as_slice()), &self.llm.device())
    }

    /// Reads `[rows, count, hidden]`; returns the last position's hidden state.
    fn forward(&mut self, embeds: Tensor<3>) -> Tensor<2> {
        let [rows, count, _] = embeds.dims();
        let past = self.cache.filled();
        let end = past + count;
        let mask = self.padded.clone().map(|padded| {
            let padded = padded.narrow(3, 0, end);
            if count == 1 {
                return padded;
            }
            let shape = [rows, 1, count, end];
            let later = causal_mask(count, end, &embeds.device());
            padded.expand(shape).bool_or(later.expand(shape))
        });
        let positions = self.positions.clone().narrow(1, past, count);
        let cache = Some(&mut self.cache);
        let hidden = self.llm.forward(embeds, positions, mask, cache);
        hidden.narrow(1, count - 1, 1).squeeze_dim(1)
    }
}
