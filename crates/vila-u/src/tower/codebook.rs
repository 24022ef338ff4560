//! A codebook, updated without gradients: every row is the exponential moving average (EMA) of the vectors that
//! were assigned to it.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData},
};
use rand::{Rng, seq::index};
use vila_u_kernels::nearest;

/// Laplace smoothing of the cluster sizes, so that an unused row is not divided by zero.
const EPSILON: f64 = 1e-5;

/// K code vectors. No part of it takes a gradient, but for the rows where a recipe has `layer_codes`.
#[derive(Module, Debug)]
pub struct Codebook {
    /// `[K + 1, channels]`; the last row is zero, a padding that is never chosen.
    pub weight: Param<Tensor<2>>,
    /// `[K]`, moving average of how many vectors of a batch are assigned to each row.
    pub cluster_size_ema: Param<Tensor<1>>,
    /// `[K, channels]`, moving average of the sum of those vectors.
    pub embed_ema: Param<Tensor<2>>,
}

/// What an update of a codebook needs from outside: random numbers, and the vectors of other processes.
pub trait CodebookUpdate {
    /// `count` different numbers below `length`, in random order.
    fn choose(&mut self, length: usize, count: usize) -> Vec<usize>;
    /// `count` numbers in 0..1.
    fn noise(&mut self, count: usize) -> Vec<f32>;
    /// The vectors `[n, channels]` and their codes `[n]` that a codebook is updated with: those of this batch, and
    /// where several processes train together, of all of them.
    fn gather(&mut self, vectors: Tensor<2>, codes: Tensor<1, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        (vectors, codes)
    }
}

impl<R: Rng> CodebookUpdate for R {
    fn choose(&mut self, length: usize, count: usize) -> Vec<usize> {
        index::sample(self, length, count).into_vec()
    }

    fn noise(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.random()).collect()
    }
}

impl Codebook {
    pub(super) fn new(codes: usize, channels: usize, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: (channels as f64).powf(-0.5),
        };
        let weight: Param<Tensor<2>> = normal
            .init([codes + 1, channels], device)
            .set_require_grad(false)
            .init_mapper(move |rows| {
                let [codes, channels] = [rows.dims()[0] - 1, rows.dims()[1]];
                rows.slice_fill([codes..codes + 1, 0..channels], 0.0)
            });
        // The averages start as if every row had just been assigned itself once.
        let start = weight.clone();
        let embed_ema = Initializer::Zeros
            .init([codes, channels], device)
            .set_require_grad(false)
            .init_mapper(move |zeros| {
                let rows = start.val().to_device(&zeros.device());
                rows.narrow(0, 0, zeros.dims()[0])
            });
        Self {
            weight,
            cluster_size_ema: Initializer::Ones
                .init([codes], device)
                .set_require_grad(false),
            embed_ema,
        }
    }

    pub(super) fn codes(&self) -> usize {
        self.weight.lazy_shape().dims::<2>()[0] - 1
    }

    pub(super) fn channels(&self) -> usize {
        self.weight.lazy_shape().dims::<2>()[1]
    }

    /// `[K, channels]`, without the padding.
    pub(super) fn rows(&self) -> Tensor<2> {
        self.weight.val().narrow(0, 0, self.codes())
    }

    /// Sets the rows, `[K, channels]`, and starts the averages from them.
    pub(crate) fn set_rows(&mut self, rows: Tensor<2>) {
        self.replace_rows(rows);
        self.restart_averages();
    }

    fn replace_rows(&mut self, rows: Tensor<2>) {
        replace(&mut self.weight, |old| {
            let padding = old.narrow(0, rows.dims()[0], 1);
            Tensor::cat(vec![rows, padding], 0)
        });
    }

    pub(super) fn embed(&self, codes: Tensor<1, Int>) -> Tensor<2> {
        self.weight.val().select(0, codes)
    }

    /// The row nearest to each vector: `[n, channels]` -> `[n]`.
    pub(super) fn nearest(&self, vectors: Tensor<2>) -> Tensor<1, Int> {
        nearest(vectors, self.weight.val(), self.codes())
    }

    /// Updates the moving averages with the vectors `[n, channels]` that were assigned to `codes` `[n]`.
    pub(super) fn update_ema(&mut self, vectors: Tensor<2>, codes: Tensor<1, Int>, decay: f64) {
        let counts = self.cluster_size_ema.val().zeros_like().select_assign(
            0,
            codes.clone(),
            Tensor::ones([codes.dims()[0]], &vectors.device()),
            IndexingUpdateOp::Add,
        );
        let sums = self.embed_ema.val().zeros_like().select_assign(
            0,
            codes,
            vectors,
            IndexingUpdateOp::Add,
        );
        replace(&mut self.cluster_size_ema, |old| {
            old * decay + counts * (1.0 - decay)
        });
        replace(&mut self.embed_ema, |old| {
            old * decay + sums * (1.0 - decay)
        });
    }

    /// Replaces rows whose average cluster size is below one by vectors of this batch.
    pub(super) fn restart_unused(&mut self, vectors: Tensor<2>, update: &mut impl CodebookUpdate) {
        let [n, channels] = vectors.dims();
        let codes = self.codes();
        let device = vectors.device();
        // As many turns through the batch as it takes to have a vector for every row.
        let chosen = update.choose(n * codes.div_ceil(n), codes);
        let chosen: Vec<i64> = chosen.into_iter().map(|i| (i % n) as i64).collect();
        let mut fresh =
            vectors.select(0, Tensor::from_data(TensorData::from(&chosen[..]), &device));
        if n < codes {
            // A vector serves several rows: a little noise tells them apart.
            let noise = TensorData::new(update.noise(codes * channels), [codes, channels]);
            let scale = 0.01 / (channels as f64).sqrt();
            fresh = fresh + Tensor::from_data(noise, &device) * scale;
        }
        let unused = self.cluster_size_ema.val().lower_scalar(1.0);
        replace(&mut self.cluster_size_ema, |old| {
            old.mask_fill(unused.clone(), 1.0)
        });
        replace(&mut self.embed_ema, |old| {
            let unused = unused.unsqueeze_dim::<2>(1).expand([codes, channels]);
            old.mask_where(unused, fresh)
        });
    }

    /// Starts the averages again, as if every row had just been assigned itself once.
    pub(super) fn restart_averages(&mut self) {
        let rows = self.rows().detach();
        replace(&mut self.cluster_size_ema, |old| old.ones_like());
        replace(&mut self.embed_ema, |_| rows);
    }

    /// Sets the rows to the means: average sum over average cluster size.
    pub(super) fn update_rows(&mut self) {
        let sizes = self.cluster_size_ema.val();
        let codes = self.codes() as f64;
        let total = sizes.clone().sum();
        let smoothed = (sizes + EPSILON) * total.clone() / (total + codes * EPSILON);
        self.replace_rows(self.embed_ema.val() / smoothed.unsqueeze_dim(1));
    }
}

/// New value, same parameter.
fn replace<const D: usize>(
    param: &mut Param<Tensor<D>>,
    value: impl FnOnce(Tensor<D>) -> Tensor<D>,
) {
    *param = param.clone().map(value);
}
