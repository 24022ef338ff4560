//! Rows of a batch that the language model continues together, one position at a time.

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

/// Prompts are read in pieces of this many positions, which bounds the memory of attention.
const PIECE: usize = 512;

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
        let vocabulary = llm.vocabulary() as i64;
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
}

/// What the language model has read so far.
pub struct Rows<'m> {
    llm: &'m Llama,
    cache: KvCache,
    /// Positions of each row, padding not counted: where its next token goes.
    lengths: Vec<usize>,
    /// `[rows, positions]`, `true` on padding; None if no row has any.
    padding: Option<Tensor<2, Bool>>,
}

impl<'m> Rows<'m> {
    /// Reads the prompt, with room for `room` more positions. Also returns the hidden state
    /// `[rows, hidden]` of every row's last position.
    pub fn start(llm: &'m Llama, prompt: Prompt, room: usize) -> (Self, Tensor<2>) {
        let Prompt { embeds, lengths } = prompt;
        let [rows, longest, _] = embeds.dims();
        let device = embeds.device();
        let mut positions = Vec::with_capacity(rows * longest);
        let mut padding = Vec::with_capacity(rows * longest);
        for length in &lengths {
            let pads = longest - length;
            positions.extend((0..longest).map(|at| at.saturating_sub(pads) as i64));
            padding.extend((0..longest).map(|at| at < pads));
        }
        let positions = TensorData::new(positions, [rows, longest]);
        let positions = Tensor::<2, Int>::from_data(positions, &device);
        let padding = padding
            .contains(&true)
            .then(|| Tensor::from_data(TensorData::new(padding, [rows, longest]), &device));

        let mut read = Self {
            llm,
            cache: llm.cache(rows, longest + room),
            lengths,
            padding,
        };
        let mut hidden = None;
        for start in (0..longest).step_by(PIECE) {
            let count = PIECE.min(longest - start);
            let embeds = embeds.clone().narrow(1, start, count);
            let positions = positions.clone().narrow(1, start, count);
            let out = read.forward(embeds, positions);
            hidden = Some(out.narrow(1, count - 1, 1).squeeze_dim(1));
        }
        let hidden = hidden.unwrap_or_else(|| embeds.narrow(1, 0, 1).squeeze_dim(1));
        (read, hidden)
    }

    /// Reads one more position of every row, `[rows, hidden]`; returns its hidden state
    /// `[rows, hidden]`.
    pub fn extend(&mut self, embeds: Tensor<2>) -> Tensor<2> {
        let rows = self.lengths.len();
        let positions: Vec<i64> = self.lengths.iter().map(|l| *l as i64).collect();
        let positions = TensorData::new(positions, [rows, 1]);
        let positions = Tensor::from_data(positions, &embeds.device());
        if let Some(padding) = &mut self.padding {
            let real = Tensor::full([rows, 1], false, &embeds.device());
            padding.inplace(|padding| Tensor::cat(vec![padding, real], 1));
        }
        for length in &mut self.lengths {
            *length += 1;
        }
        self.forward(embeds.unsqueeze_dim(1), positions)
            .squeeze_dim(1)
    }

    /// New rows with room for `room` more positions, the `i`-th continuing row `origins[i]`.
    pub fn fork(&self, origins: &[usize], room: usize) -> Self {
        let indices = self.indices(origins);
        Self {
            llm: self.llm,
            cache: self.cache.fork(&indices, self.cache.filled() + room),
            lengths: origins.iter().map(|row| self.lengths[*row]).collect(),
            padding: self.padding.clone().map(|p| p.select(0, indices)),
        }
    }

    /// Row numbers as a tensor on the model's device.
    pub fn indices(&self, rows: &[usize]) -> Tensor<1, Int> {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        Tensor::from_data(TensorData::from(rows.as_slice()), &self.llm.device())
    }

    fn forward(&mut self, embeds: Tensor<3>, positions: Tensor<2, Int>) -> Tensor<3> {
        let [rows, count, _] = embeds.dims();
        let keys = self.cache.filled() + count;
        let mask = self.padding.clone().map(|padding| {
            let padding = padding
                .narrow(1, 0, keys)
                .unsqueeze_dims::<4>(&[1, 2])
                .expand([rows, 1, count, keys]);
            let later = causal_mask(count, keys, &embeds.device());
            padding.bool_or(later.expand([rows, 1, count, keys]))
        });
        self.llm
            .forward(embeds, positions, mask, Some(&mut self.cache))
    }
}
