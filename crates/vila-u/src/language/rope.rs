//! Rotary position embedding (arXiv 2104.09864) in the rotate-half form of LLaMA: dimension `i` and
//! dimension `i + head_dim / 2` turn together by `position / factor / theta^(2 i / head_dim)`.

use burn::tensor::{DType, Int, Tensor, TensorData};

/// The rotation of every position of a batch, computed once and used by every layer.
pub struct Rotation {
    cos: Tensor<4>, // [batch, 1, positions, head_dim / 2]
    sin: Tensor<4>, // [batch, 1, positions, head_dim / 2]
}

impl Rotation {
    /// `positions`: `[batch, positions]`; padding may hold any value.
    pub fn new(
        positions: Tensor<2, Int>,
        head_dim: usize,
        theta: f64,
        factor: f64,
        dtype: DType,
    ) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64) as f32)
            .collect();
        let frequencies = TensorData::new(frequencies, [1, 1, 1, half]);
        let frequencies = Tensor::<4>::from_data(frequencies, (&positions.device(), DType::F32));
        // Angles need float32: position 4,000 in bfloat16 is off by several turns.
        let positions = positions.float().cast(DType::F32) / factor;
        let angles = positions.unsqueeze_dims::<4>(&[1, 3]) * frequencies;
        Self {
            cos: angles.clone().cos().cast(dtype),
            sin: angles.sin().cast(dtype),
        }
    }

    /// Turns queries or keys `[batch, heads, positions, head_dim]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        Tensor::cat(turned, 3)
    }
}
