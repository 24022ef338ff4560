//! Rotary position embedding (arXiv 2104.09864) in the rotate-half form of LLaMA: dimension `i` and
//! dimension `i + head_dim / 2` turn together by `position / divisor * frequency(i)`, with
//! `frequency(i) = theta^(-2 i / head_dim)` before scaling.

use burn::tensor::{DType, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// How fast positions turn queries and keys: `rope_theta` and `rope_scaling` of a config, or the
/// `rope_parameters` that newer files have for both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredRope")]
pub struct Rope {
    #[serde(rename = "rope_theta")]
    pub theta: f64,
    #[serde(rename = "rope_scaling")]
    pub scaling: Option<RopeScaling>,
}

/// How a model reads sequences longer than those it was first trained on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Positions are divided by `factor` (arXiv 2306.15595).
    Linear { factor: f64 },
    /// Llama 3.1's: frequencies are divided by `factor` where the original context holds fewer than
    /// `low_freq_factor` turns, stay where it holds more than `high_freq_factor`, and are blended between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl Default for Rope {
    fn default() -> Self {
        Self {
            theta: 10_000.0,
            scaling: None,
        }
    }
}

/// The fields as files have them.
#[derive(Deserialize)]
struct StoredRope {
    rope_theta: Option<f64>,
    rope_scaling: Option<StoredParameters>,
    rope_parameters: Option<StoredParameters>,
}

#[derive(Deserialize)]
struct StoredParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl TryFrom<StoredRope> for Rope {
    type Error = String;

    fn try_from(stored: StoredRope) -> Result<Self, String> {
        let parameters = stored.rope_parameters.or(stored.rope_scaling);
        let theta = parameters.as_ref().and_then(|p| p.rope_theta);
        Ok(Self {
            theta: theta.or(stored.rope_theta).unwrap_or(Self::default().theta),
            scaling: match parameters {
                Some(parameters) => parameters.scaling()?,
                None => None,
            },
        })
    }
}

impl StoredParameters {
    fn scaling(self) -> Result<Option<RopeScaling>, String> {
        let kind = self.rope_type.or(self.r#type);
        let kind = kind.as_deref().unwrap_or("default");
        let missing = |name| format!("rope_scaling of type {kind} has no {name}");
        let factor = self.factor.ok_or_else(|| missing("factor"));
        match kind {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: factor? })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: factor?,
                low_freq_factor: self
                    .low_freq_factor
                    .ok_or_else(|| missing("low_freq_factor"))?,
                high_freq_factor: self
                    .high_freq_factor
                    .ok_or_else(|| missing("high_freq_factor"))?,
                original_max_position_embeddings: self
                    .original_max_position_embeddings
                    .ok_or_else(|| missing("original_max_position_embeddings"))?,
            })),
            _ => Err(format!(
                "rope_scaling of type {kind} is not supported: only linear and llama3"
            )),
        }
    }
}

impl Rope {
    /// What position ids are divided by.
    pub fn position_divisor(&self) -> f64 {
        match self.scaling {
            Some(RopeScaling::Linear { factor }) => factor,
            _ => 1.0,
        }
    }

    /// A usage error that says why no model can have these numbers, if there is a reason.
    pub fn check(&self) -> crate::Result<()> {
        if self.theta.is_nan() || self.theta <= 0.0 {
            return Err(crate::Error::usage("rope_theta must be positive"));
        }
        let range = 1.0..1e6;
        match &self.scaling {
            Some(RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. })
                if !range.contains(factor) =>
            {
                Err(crate::Error::usage(format!(
                    "rope_scaling has a factor of {factor}: it must be from 1 up"
                )))
            }
            Some(RopeScaling::Llama3 {
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
                ..
            }) if !(*low > 0.0 && high > low && *original > 0) => {
                Err(crate::Error::usage(format!(
                    "rope_scaling has low_freq_factor {low}, high_freq_factor {high} and \
                 original_max_position_embeddings {original}: they must be positive, and high above low"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Radians per position of each pair of dimensions.
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        let Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        }) = self.scaling
        else {
            return plain.map(|frequency| frequency as f32).collect();
        };
        let scaled = |frequency: f64| {
            let turns = original as f64 * frequency / std::f64::consts::TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (kept + (1.0 - kept) / factor)
        };
        plain.map(|frequency| scaled(frequency) as f32).collect()
    }
}

/// The rotation of every position of a batch, computed once and used by every layer.
pub(crate) struct RotaryEmbedding {
    cos: Tensor<4>, // [batch, 1, positions, head_dim / 2]
    sin: Tensor<4>, // [batch, 1, positions, head_dim / 2]
}

impl RotaryEmbedding {
    /// `positions`: `[batch, positions]`; padding may hold any value.
    pub(crate) fn new(
        positions: Tensor<2, Int>,
        head_dim: usize,
        rope: &Rope,
        dtype: DType,
    ) -> Self {
        let frequencies = TensorData::new(rope.frequencies(head_dim), [1, 1, 1, head_dim / 2]);
        let frequencies = Tensor::<4>::from_data(frequencies, (&positions.device(), DType::F32));
        // Angles need float32: position 4,000 in bfloat16 is off by several turns.
        let positions = positions.float().cast(DType::F32) / rope.position_divisor();
        let angles = positions.unsqueeze_dims::<4>(&[1, 3]) * frequencies;
        Self {
            cos: angles.clone().cos().cast(dtype),
            sin: angles.sin().cast(dtype),
        }
    }

    /// Turns queries or keys `[batch, heads, positions, head_dim]`.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        Tensor::cat(turned, 3)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: &str) -> Result<Rope, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    const LLAMA3: &str = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192"#;

    #[test]
    fn older_and_newer_files_say_the_same() {
        let older = format!(
            r#"{{"rope_theta": 500000.0, "rope_scaling": {{"rope_type": "llama3", "type": "llama3", {LLAMA3}}}}}"#
        );
        let newer = format!(
            r#"{{"rope_parameters": {{"rope_theta": 500000.0, "rope_type": "llama3", {LLAMA3}}}}}"#
        );
        let rope = read(&older).unwrap();
        assert_eq!(read(&newer).unwrap(), rope);
        rope.check().unwrap();
        // As it is written, it is read.
        assert_eq!(read(&serde_json::to_string(&rope).unwrap()).unwrap(), rope);
        assert_eq!(read("{}").unwrap(), Rope::default());
        let plain = r#"{"rope_parameters": {"rope_theta": 100000, "rope_type": "default"}}"#;
        assert_eq!(read(plain).unwrap().theta, 100_000.0);
        let linear = read(r#"{"rope_scaling": {"type": "linear", "factor": 2.0}}"#).unwrap();
        assert_eq!(linear.position_divisor(), 2.0);
        assert_eq!(
            serde_json::to_string(&linear).unwrap(),
            r#"{"rope_theta":10000.0,"rope_scaling":{"type":"linear","factor":2.0}}"#
        );
    }

    #[test]
    fn llama3_slows_the_slow_pairs_only() {
        let text = format!(
            r#"{{"rope_theta": 500000.0, "rope_scaling": {{"type": "llama3", {LLAMA3}}}}}"#
        );
        let scaled = read(&text).unwrap();
        let plain = Rope {
            scaling: None,
            ..scaled.clone()
        };
        let (scaled, plain) = (scaled.frequencies(128), plain.frequencies(128));
        let ratios: Vec<f32> = plain.iter().zip(&scaled).map(|(a, b)| a / b).collect();
        assert_eq!((ratios[0], ratios[63]), (1.0, 8.0));
        assert!(ratios.is_sorted() && ratios.iter().any(|ratio| (2.0..7.0).contains(ratio)));
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        for kind in ["yarn", "dynamic", "longrope"] {
            let text = format!(r#"{{"rope_scaling": {{"rope_type": "{kind}", "factor": 4.0}}}}"#);
            let error = read(&text).unwrap_err();
            assert!(
                error.contains(kind) && error.contains("only linear"),
                "{error}"
            );
        }
        assert!(
            read(r#"{"rope_scaling": {"type": "linear"}}"#)
                .unwrap_err()
                .contains("no factor")
        );
        let checked = |scaling| {
            let rope = Rope {
                scaling: Some(scaling),
                ..Rope::default()
            };
            rope.check().unwrap_err().to_string()
        };
        assert!(checked(RopeScaling::Linear { factor: f64::NAN }).contains("factor"));
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert!(checked(scaling).contains("high above low"));
        let theta = Rope {
            theta: f64::NAN,
            scaling: None,
        };
        assert!(theta.check().is_err());
    }
}
