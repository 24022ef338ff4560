//! Floating-point numbers from one width to another, on all cores.

use burn::tensor::DType;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Elements that one core converts at a time.
const CHUNK: usize = 1 << 14;

/// Little-endian floats of type `from` (f64, f32, f16, bf16) as `to` (f32, f16, bf16).
pub fn convert(bytes: &[u8], from: DType, to: DType) -> Vec<u8> {
    if from == to {
        return bytes.to_vec();
    }
    let (wide, narrow) = (from.size(), to.size());
    let mut out = vec![0; bytes.len() / wide * narrow];
    out.par_chunks_mut(CHUNK * narrow)
        .zip(bytes.par_chunks(CHUNK * wide))
        .for_each(|(out, bytes)| store(&load(bytes, from), to, out));
    out
}

fn load(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => {
            let halves = bytes.as_chunks().0.iter();
            let halves: Vec<f16> = halves.map(|b| f16::from_le_bytes(*b)).collect();
            halves.to_f32_vec()
        }
        DType::BF16 => {
            let halves = bytes.as_chunks().0.iter();
            halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        DType::F64 => {
            let doubles = bytes.as_chunks().0.iter();
            doubles.map(|b| f64::from_le_bytes(*b) as f32).collect()
        }
        _ => {
            let floats = bytes.as_chunks().0.iter();
            floats.map(|b| f32::from_le_bytes(*b)).collect()
        }
    }
}

fn store(values: &[f32], dtype: DType, out: &mut [u8]) {
    match dtype {
        DType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            for (out, half) in out.as_chunks_mut().0.iter_mut().zip(halves) {
                *out = half.to_le_bytes();
            }
        }
        DType::BF16 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = bf16::from_f32(*value).to_le_bytes();
            }
        }
        _ => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = value.to_le_bytes();
            }
        }
    }
}

/// Whether a number that was finite as `before` is infinite as `after`.
pub fn overflowed(before: (&[u8], DType), after: (&[u8], DType)) -> bool {
    infinities(after.0, after.1) > infinities(before.0, before.1)
}

fn infinities(bytes: &[u8], dtype: DType) -> usize {
    let chunks = bytes.par_chunks(CHUNK * dtype.size());
    chunks
        .map(|bytes| {
            load(bytes, dtype)
                .iter()
                .filter(|v| v.is_infinite())
                .count()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width() {
        // Exact in every type; an odd count, and more than one chunk.
        let values: Vec<f32> = (0..CHUNK + 7).map(|i| (i % 256) as f32 - 128.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let there = convert(&bytes, DType::F32, dtype);
            assert_eq!(there.len(), values.len() * dtype.size());
            assert_eq!(convert(&there, dtype, DType::F32), bytes, "{dtype:?}");
        }
        let doubles: Vec<u8> = values
            .iter()
            .flat_map(|v| (*v as f64).to_le_bytes())
            .collect();
        assert_eq!(convert(&doubles, DType::F64, DType::F32), bytes);
    }

    #[test]
    fn overflow() {
        let bytes: Vec<u8> = [1.0f32, 70000.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let narrow = |dtype| convert(&bytes, DType::F32, dtype);
        let overflows = |dtype| overflowed((&bytes, DType::F32), (&narrow(dtype), dtype));
        assert!(overflows(DType::F16));
        assert!(!overflows(DType::BF16));
    }
}
