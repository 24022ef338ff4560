//! Residual quantization (RQ-VAE, arXiv 2203.01941): a vector becomes D codes, each the codebook row nearest to the
//! residual that the rows before it leave.
//!
//! ```text
//! r_0 = x,   k_d = argmin_k |r_d-1 - e_d(k)|^2,   r_d = r_d-1 - e_d(k_d),   z = e_1(k_1) + ... + e_D(k_D)
//! ```
//!
//! Gradients pass by the straight-through estimator (`z_q = x + stop_gradient(z - x)`); the codebooks are moving
//! averages ([`Codebook`]).

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor},
};

use vila_u_kernels::linear;

use super::{
    codebook::{Codebook, CodebookUpdate},
    config::RqVaeSiglipConfig,
};
use crate::{Error, Result};

#[derive(Module, Debug)]
pub struct ResidualQuantizer {
    /// One per depth, or a single one that all depths share.
    pub codebooks: Vec<Codebook>,
    /// Height, width and channels of the latents that go in.
    latent_shape: [usize; 3],
    /// Height and width of the code grid, and codes per position.
    code_shape: [usize; 3],
    /// Decay of the codebooks' moving averages.
    decay: f64,
    /// Whether rows that no vector is assigned to are replaced by vectors of the batch.
    pub restart_unused_codes: bool,
}

/// A quantized grid of features.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// `[batch, rows, columns, D]`, each in `0..K`.
    pub codes: Tensor<4, Int>,
    /// The features rebuilt from their codes, `[batch, h, w, C]`; gradients go to the features.
    pub z_q: Tensor<4>,
    /// `[1]`, mean over depths of the mean squared distance between the features and the sum of
    /// their codes up to that depth; its gradient goes to the features.
    pub commitment_loss: Tensor<1>,
}

impl ResidualQuantizer {
    pub(super) fn new(config: &RqVaeSiglipConfig, device: &Device) -> Self {
        let codebook = |_| Codebook::new(config.n_embed, config.code_channels(), device);
        let codebooks = if config.shared_codebook {
            1
        } else {
            config.code_shape[2]
        };
        Self {
            codebooks: (0..codebooks).map(codebook).collect(),
            latent_shape: config.latent_shape,
            code_shape: config.code_shape,
            decay: config.decay,
            restart_unused_codes: config.restart_unused_codes,
        }
    }

    /// Codes per position, D.
    pub fn depth(&self) -> usize {
        self.code_shape[2]
    }

    /// The grid of codes and D: `[rows, columns, D]`.
    pub fn code_shape(&self) -> [usize; 3] {
        self.code_shape
    }

    /// Rows to choose from at each depth, K.
    pub fn codes(&self) -> usize {
        self.codebooks[0].codes()
    }

    /// Channels of a row.
    pub(crate) fn code_channels(&self) -> usize {
        self.codebooks[0].channels()
    }

    /// Features `[batch, h, w, C]` to codes, without an update of the codebooks.
    pub fn forward(&self, features: Tensor<4>) -> Quantized {
        let vectors = self.to_code_grid(features.clone());
        let mut steps = Steps::new(vectors);
        for depth in 0..self.depth() {
            let codebook = &self.codebooks[self.codebook_index(depth)];
            let codes = codebook.nearest(steps.residual.clone());
            let embeddings = codebook.embed(codes.clone());
            steps.push(codes, embeddings);
        }
        self.quantized(features, steps)
    }

    /// Features `[batch, h, w, C]` to codes, updating each codebook with the vectors it has just quantized.
    ///
    /// One codebook for all depths is updated after each of them, so that later depths see it updated.
    /// A row needs about one vector per batch and depth to stay in use: with restarts on, give
    /// batches clearly more positions than there are rows. The first such batch replaces all unused
    /// rows by data, so an untrained codebook needs no other initialisation.
    pub fn forward_train(
        &mut self,
        features: Tensor<4>,
        update: &mut impl CodebookUpdate,
    ) -> Quantized {
        let vectors = self.to_code_grid(features.clone());
        let mut steps = Steps::new(vectors);
        for depth in 0..self.depth() {
            let index = self.codebook_index(depth);
            let codebook = &mut self.codebooks[index];
            let codes = codebook.nearest(steps.residual.clone());
            let embeddings = codebook.embed(codes.clone());
            let (vectors, gathered) = update.gather(steps.residual.clone(), codes.clone());
            codebook.update_ema(vectors.clone(), gathered, self.decay);
            if self.restart_unused_codes {
                codebook.restart_unused(vectors, update);
            }
            codebook.update_rows();
            steps.push(codes, embeddings);
        }
        self.quantized(features, steps)
    }

    /// What is quantized with given codes `[n, D]`, and logits of every row at each depth, `[n, K]`: `scale` times
    /// `|r|^2 - |r - e|^2` of what is left by then. Gradients go to the features and to the rows, which are no moving
    /// averages then; these start again from the rows.
    pub(crate) fn forward_teacher_forced(
        &mut self,
        features: Tensor<4>,
        codes: Tensor<2, Int>,
        scales: &[f64],
    ) -> (Tensor<4>, Vec<Tensor<2>>) {
        let mut residual = self.to_code_grid(features);
        let mut sum = residual.zeros_like();
        let mut logits = Vec::new();
        for (depth, (codes, scale)) in codes.split(1, 1).into_iter().zip(scales).enumerate() {
            let codebook = &self.codebooks[self.codebook_index(depth)];
            let rows = codebook.rows();
            let squares = rows.clone().square().sum_dim(1).squeeze_dim(1);
            let scaled = residual.clone() * (2.0 * scale);
            logits.push(linear(scaled, rows.transpose(), Some(squares * -*scale)));
            let embeddings = codebook.embed(codes.squeeze_dim(1));
            residual = residual - embeddings.clone();
            sum = sum + embeddings;
        }
        for codebook in &mut self.codebooks {
            codebook.restart_averages();
        }
        (self.to_latent_grid(sum), logits)
    }

    /// Rows of depth `depth`'s codebook: codes `[n]` -> `[n, channels]`.
    pub fn embed_code(&self, depth: usize, codes: Tensor<1, Int>) -> Tensor<2> {
        self.codebooks[self.codebook_index(depth)].embed(codes)
    }

    /// The row of each code: `[n, D]` -> `[n, D, channels]`.
    pub fn embed_codes(&self, codes: Tensor<2, Int>) -> Tensor<3> {
        let [n, _] = codes.dims();
        let of_depth = |depth| {
            let codes = codes.clone().narrow(1, depth, 1).reshape([n]);
            self.embed_code(depth, codes)
        };
        Tensor::stack((0..self.depth()).map(of_depth).collect(), 1)
    }

    /// The sum of each code's row and those before it: `[n, D]` -> `[n, D, channels]`. The last
    /// one is the visual feature.
    pub fn cumulative_embeddings(&self, codes: Tensor<2, Int>) -> Tensor<3> {
        self.embed_codes(codes).cumsum(1)
    }

    /// The features that codes stand for: `[batch, rows, columns, D]` -> `[batch, h, w, C]`.
    pub fn features_of(&self, codes: Tensor<4, Int>) -> Tensor<4> {
        let [batch, rows, columns, depth] = codes.dims();
        let codes = codes.reshape([batch * rows * columns, depth]);
        let sums = self.embed_codes(codes).sum_dim(1).squeeze_dim(1);
        self.to_latent_grid(sums)
    }

    /// The features that the first code of each position stands for, the first two, and so on to all of them:
    /// `[batch, rows, columns, D]` -> D of `[batch, h, w, C]`.
    pub fn features_by_depth(&self, codes: Tensor<4, Int>) -> Vec<Tensor<4>> {
        let [batch, rows, columns, depth] = codes.dims();
        let codes = codes.reshape([batch * rows * columns, depth]);
        let sums = self.cumulative_embeddings(codes).split(1, 1);
        let sums = sums.into_iter().map(|sum| sum.squeeze_dim(1));
        sums.map(|sum| self.to_latent_grid(sum)).collect()
    }

    /// A usage error where codes from outside are not of this quantizer's shape or range.
    pub fn check(&self, codes: &Tensor<4, Int>) -> Result<()> {
        let [_, rows, columns, depth] = codes.dims();
        if [rows, columns, depth] != self.code_shape {
            let [r, c, d] = self.code_shape;
            return Err(Error::usage(format!(
                "codes are {rows}x{columns}x{depth}; this model's are {r}x{c}x{d}"
            )));
        }
        let limit = self.codes() as i64;
        let codes = codes.to_data();
        let outside = codes.iter::<i64>().find(|code| !(0..limit).contains(code));
        match outside {
            None => Ok(()),
            Some(code) => Err(Error::usage(format!(
                "code {code} is not one of this model's, which are 0 to {}",
                limit - 1
            ))),
        }
    }

    fn codebook_index(&self, depth: usize) -> usize {
        depth.min(self.codebooks.len() - 1)
    }

    fn quantized(&self, features: Tensor<4>, steps: Steps) -> Quantized {
        let [rows, columns, depth] = self.code_shape;
        let batch = features.dims()[0];
        let codes = Tensor::<1, Int>::stack::<2>(steps.codes, 1);
        let sum = self.to_latent_grid(steps.sum);
        let dtype = features.dtype();
        let features = features.cast(DType::F32);
        let offset = (sum - features.clone()).detach();
        Quantized {
            codes: codes.reshape([batch, rows, columns, depth]),
            z_q: (features + offset).cast(dtype),
            commitment_loss: steps.losses / depth as f64,
        }
    }

    /// `[batch, h, w, C]` -> `[batch * rows * columns, channels]`: where the code grid is coarser,
    /// the latents under one code are put side by side.
    fn to_code_grid(&self, x: Tensor<4>) -> Tensor<2> {
        let batch = x.dims()[0];
        let [height, width, channels] = self.latent_shape;
        let [rows, columns, _] = self.code_shape;
        let (tall, wide) = (height / rows, width / columns);
        x.reshape([batch, rows, tall, columns, wide, channels])
            .swap_dims(2, 3)
            .reshape([batch * rows * columns, tall * wide * channels])
    }

    /// The way back: `[batch * rows * columns, channels]` -> `[batch, h, w, C]`.
    fn to_latent_grid(&self, x: Tensor<2>) -> Tensor<4> {
        let [height, width, channels] = self.latent_shape;
        let [rows, columns, _] = self.code_shape;
        let batch = x.dims()[0] / (rows * columns);
        x.reshape([
            batch,
            rows,
            columns,
            height / rows,
            width / columns,
            channels,
        ])
        .swap_dims(2, 3)
        .reshape([batch, height, width, channels])
    }
}

/// The depths quantized so far: the residual, and the sum of the rows chosen. In `f32` whatever the features are,
/// because residuals become small.
struct Steps {
    vectors: Tensor<2>,
    residual: Tensor<2>,
    sum: Tensor<2>,
    codes: Vec<Tensor<1, Int>>,
    losses: Tensor<1>,
}

impl Steps {
    fn new(vectors: Tensor<2>) -> Self {
        let vectors = vectors.cast(DType::F32);
        let residual = vectors.clone().detach();
        Self {
            sum: residual.zeros_like(),
            losses: Tensor::zeros([1], &vectors.device()),
            codes: Vec::new(),
            residual,
            vectors,
        }
    }

    fn push(&mut self, codes: Tensor<1, Int>, embeddings: Tensor<2>) {
        self.codes.push(codes);
        let embeddings = embeddings.cast(DType::F32);
        self.residual = self.residual.clone() - embeddings.clone();
        self.sum = self.sum.clone() + embeddings;
        let distance = self.vectors.clone() - self.sum.clone();
        self.losses = self.losses.clone() + distance.square().mean();
    }
}
