//! Weights that are made up while they are read, so that models of full size can be measured without
//! files of that size.
//!
//! A component's folder then has `random.json`, `{"seed": 0}`, where the files of its weights would be.
//! Matrices and kernels are N(0, 0.02) rounded to bfloat16, norms 1 and biases 0. A number follows
//! from the seed, the key and its place alone, so it is the same on any number of cores.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    files::Files, parameter::ParameterSpec, stored_tensor::StoredTensor, tensors::Tensors,
};
use crate::{Error, Result, data::seed::mix};

/// The file that says so.
pub(super) const NAME: &str = "random.json";
/// As language models are trained from.
const DEVIATION: f32 = 0.02;
/// Numbers that one core makes at a time.
const CHUNK: usize = 1 << 16;

/// The contents of `random.json`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RandomWeights {
    pub seed: u64,
}

impl RandomWeights {
    /// What a folder's `random.json` says; `None` if it has none.
    ///
    /// # Errors
    /// When it holds something else.
    pub(super) fn read(folder: &Files) -> Result<Option<Self>> {
        let Some(text) = folder.read_optional(NAME)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(folder.path(NAME), error.to_string()))
    }

    /// A tensor for each of these keys and shapes.
    pub(super) fn tensors(
        &self,
        folder: &Files,
        parameters: &BTreeMap<String, ParameterSpec>,
    ) -> Tensors {
        let path = folder.path(NAME);
        let tensor = |(key, ParameterSpec { shape, .. }): (&String, &ParameterSpec)| {
            let values = match shape.len() {
                1 if key.ends_with("bias") => Fill::Constant(0.0),
                1 => Fill::Constant(1.0),
                _ => Fill::Normal(mix(self.seed ^ hash(key), 0)),
            };
            let stored = StoredTensor::random(path.clone(), shape.clone(), values);
            (key.clone(), stored)
        };
        Tensors {
            by_key: parameters.iter().map(tensor).collect(),
            path,
        }
    }
}

/// What a tensor is filled with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Constant(f32),
    /// N(0, 0.02), numbered from a state of its own.
    Normal(u64),
}

impl Fill {
    /// The first `count` numbers as little-endian bf16.
    pub(super) fn bytes(self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; 2 * count];
        let chunks = bytes.par_chunks_mut(2 * CHUNK).enumerate();
        chunks.for_each(|(chunk, bytes)| {
            let first = (chunk * CHUNK) as u64;
            for (index, bytes) in (first..).zip(bytes.as_chunks_mut().0) {
                let value = match self {
                    Self::Constant(value) => value,
                    Self::Normal(state) => normal(mix(state.wrapping_add(index), 0)),
                };
                *bytes = half::bf16::from_f32(value).to_le_bytes();
            }
        });
        bytes
    }
}

/// The sum of four uniform numbers, close to a normal one.
fn normal(bits: u64) -> f32 {
    const UNIFORM: f32 = 65_536.0 * 0.288_675_13; // deviation of one: width / sqrt(12)
    let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
    (sum as f32 - 2.0 * 65_535.0) * (DEVIATION / (2.0 * UNIFORM))
}

/// FNV-1a
fn hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn numbers(values: Fill, count: usize) -> Vec<f32> {
        let bytes = values.bytes(count);
        let numbers = bytes.as_chunks().0.iter();
        numbers
            .map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32())
            .collect()
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal() {
        let values = numbers(Fill::Normal(7), 1 << 20);
        let n = values.len() as f64;
        let moment = |power: i32| {
            let powers = values
                .iter()
                .map(|value| (f64::from(*value) / 0.02).powi(power));
            powers.sum::<f64>() / n
        };
        assert!(moment(1).abs() < 0.005, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.02, "skew {}", moment(3));
        // A sum of four uniform numbers has 2.7 where a normal has 3.
        assert!((moment(4) - 2.7).abs() < 0.03, "kurtosis {}", moment(4));
    }

    #[test]
    fn threads_do_not_matter_and_keys_do() {
        let parameters = BTreeMap::from(
            [
                ("a.weight", vec![300, 500]),
                ("b.weight", vec![300, 500]),
                ("b.bias", vec![300]),
                ("norm.weight", vec![300]),
            ]
            .map(|(key, shape)| {
                let linear = shape.len() > 1;
                let path = key.to_string();
                let spec = ParameterSpec {
                    path,
                    shape,
                    linear,
                };
                (key.to_string(), spec)
            }),
        );
        let read = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let tensors = RandomWeights::default().tensors(&Files::folder("x"), &parameters);
                let read = |key: &str| {
                    let stored = &tensors.by_key[key];
                    let float = burn::tensor::DType::F32;
                    let data = stored.read(key, &parameters[key], float, false).unwrap();
                    data.try_into_vec::<f32>().unwrap()
                };
                [
                    read("a.weight"),
                    read("b.weight"),
                    read("b.bias"),
                    read("norm.weight"),
                ]
            })
        };
        let [a, b, bias, norm] = read(1);
        assert_eq!([a.clone(), b.clone(), bias.clone(), norm.clone()], read(5));
        assert_ne!(a, b);
        assert!(bias.iter().all(|value| *value == 0.0));
        assert!(norm.iter().all(|value| *value == 1.0));
    }
}
