//! Residual k-means: codebooks of which each divides what those before it leave.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use rand::Rng;
use vila_u_kernels::nearest;

const ITERATIONS: usize = 12;

/// Codebooks `[rows, channels]`, one per depth, of vectors `[n, channels]`. Row 0 of each is zero.
pub(super) fn residual_k_means(
    vectors: Tensor<2>,
    rows: usize,
    depths: usize,
    rng: &mut impl Rng,
) -> Vec<Tensor<2>> {
    let mut residual = vectors;
    let mut codebooks = Vec::new();
    for _ in 0..depths {
        let codebook = k_means(&residual, rows, rng);
        let codes = nearest(residual.clone(), codebook.clone(), rows);
        residual = residual - codebook.clone().select(0, codes);
        codebooks.push(codebook);
    }
    codebooks
}

/// The codes `[n, depths]` of vectors `[n, channels]`.
pub(super) fn residual_codes(vectors: Tensor<2>, codebooks: &[Tensor<2>]) -> Tensor<2, Int> {
    let mut residual = vectors;
    let codes = codebooks.iter().map(|codebook| {
        let codes = nearest(residual.clone(), codebook.clone(), codebook.dims()[0]);
        residual = residual.clone() - codebook.clone().select(0, codes.clone());
        codes
    });
    Tensor::stack(codes.collect(), 1)
}

/// A row that nothing is nearest to moves onto a random vector.
fn k_means(vectors: &Tensor<2>, rows: usize, rng: &mut impl Rng) -> Tensor<2> {
    let ([count, channels], device) = (vectors.dims(), vectors.device());
    let mut random_vectors = || {
        let chosen: Vec<i64> = (0..rows)
            .map(|_| rng.random_range(0..count) as i64)
            .collect();
        let chosen = Tensor::from_data(TensorData::new(chosen, [rows]), &device);
        with_zero_row(vectors.clone().select(0, chosen))
    };
    let mut codebook = random_vectors();
    for _ in 0..ITERATIONS {
        let codes = nearest(vectors.clone(), codebook.clone(), rows);
        let add = IndexingUpdateOp::Add;
        let ones = Tensor::ones([count, 1], &device);
        let counts =
            Tensor::<2>::zeros([rows, 1], &device).select_assign(0, codes.clone(), ones, add);
        let sums = codebook
            .zeros_like()
            .select_assign(0, codes, vectors.clone(), add);
        let unused = counts.clone().equal_scalar(0.0).expand([rows, channels]);
        let means = sums / counts.clamp_min(1.0);
        codebook = with_zero_row(means.mask_where(unused, random_vectors()));
    }
    codebook
}

fn with_zero_row(rows: Tensor<2>) -> Tensor<2> {
    let channels = rows.dims()[1];
    rows.slice_fill([0..1, 0..channels], 0.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn each_depth_brings_vectors_nearer_and_nothing_stays_nothing() {
        let device = Device::flex();
        let vectors = Tensor::<2>::random([600, 6], Distribution::Normal(0.0, 1.0), &device);
        let vectors = with_zero_row(vectors);
        let fit = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            residual_k_means(vectors.clone(), 16, 3, &mut rng)
        };
        let codebooks = fit(1);
        let codes = residual_codes(vectors.clone(), &codebooks);
        assert_eq!(codes.dims(), [600, 3]);
        let mut left = vectors.clone();
        let mut before = left.clone().square().mean().into_scalar::<f32>();
        for (codebook, codes) in codebooks.iter().zip(codes.clone().split(1, 1)) {
            left = left - codebook.clone().select(0, codes.squeeze_dim(1));
            let now = left.clone().square().mean().into_scalar::<f32>();
            assert!(now < 0.8 * before, "{now} after {before}");
            before = now;
        }
        let first: Vec<i64> = codes.narrow(0, 0, 1).into_data().iter().collect();
        assert_eq!(first, [0, 0, 0]);
        assert_eq!(fit(1)[2].to_data(), codebooks[2].to_data());
    }
}
