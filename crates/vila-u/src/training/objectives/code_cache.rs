//! The codes of pictures, so that none is encoded twice. The tower does not change while the language model is
//! trained, and the nano world shows most of its pictures many times: encoding them anew would be a
//! quarter of the work.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::teacher_forcing::VisualTokens;
use crate::tower::RqVaeSiglip;

/// Codes held in all, 4 bytes each.
const MOST: usize = 1 << 25;

#[derive(Default)]
pub(super) struct CodeCache(Mutex<CachedCodes>);

#[derive(Default)]
struct CachedCodes {
    /// By a hash of the pixels.
    codes: HashMap<u64, Vec<i32>>,
    held: usize,
}

impl CodeCache {
    /// The codes `[n, rows, columns, D]` of pictures `[n, 3, size, size]` in -1..1.
    pub(super) fn codes(
        &self,
        tower: &RqVaeSiglip,
        pixels: &[f32],
        size: usize,
        device: &Device,
    ) -> Tensor<4, Int> {
        let pictures: Vec<&[f32]> = pixels.chunks_exact(3 * size * size).collect();
        let keys: Vec<u64> = pictures.iter().map(|picture| hash(picture)).collect();
        let mut codes = {
            let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = keys.iter().map(|key| cache.codes.get(key).cloned());
            known.collect::<Vec<_>>()
        };
        let new: Vec<usize> = (0..keys.len()).filter(|n| codes[*n].is_none()).collect();
        if !new.is_empty() {
            let pixels: Vec<f32> = new.iter().flat_map(|n| pictures[*n]).copied().collect();
            let pixels = TensorData::new(pixels, [new.len(), 3, size, size]);
            let encoded = VisualTokens::encode(tower, Tensor::from_data(pixels, device)).codes;
            let encoded: Vec<i32> = encoded.into_data().iter().collect();
            let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (n, of_picture) in new.iter().zip(encoded.chunks(encoded.len() / new.len())) {
                codes[*n] = Some(of_picture.to_vec());
                if cache.held + of_picture.len() <= MOST {
                    cache.held += of_picture.len();
                    cache.codes.insert(keys[*n], of_picture.to_vec());
                }
            }
        }
        let codes: Vec<i32> = codes.into_iter().flatten().flatten().collect();
        let [rows, columns, depth] = tower.quantizer.code_shape();
        let codes = TensorData::new(codes, [pictures.len(), rows, columns, depth]);
        Tensor::from_data(codes, &device.clone().inner())
    }
}

fn hash(picture: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for value in picture {
        value.to_bits().hash(&mut hasher);
    }
    hasher.finish()
}
