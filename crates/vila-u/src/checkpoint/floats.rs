//! Floating-point numbers from one width to another, on all cores.

use burn::tensor::{DType, Element, Shape, TensorData};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Elements that one core converts at a time.
const CHUNK: usize = 1 << 14;

/// Little-endian floats of type `from` (f64, f32, f16, bf16) as a tensor of type `to` (f32, f16, bf16).
pub(super) fn convert(bytes: &[u8], shape: Shape, from: DType, to: DType) -> TensorData {
    match to {
        DType::F16 => TensorData::new(collect::<f16>(bytes, from), shape),
        DType::BF16 => TensorData::new(collect::<bf16>(bytes, from), shape),
        _ => TensorData::new(collect::<f32>(bytes, from), shape),
    }
}

fn collect<T: Float>(bytes: &[u8], from: DType) -> Vec<T> {
    let width = from.size();
    let mut out = vec![T::default(); bytes.len() / width];
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * width))
        .for_each(|(out, bytes)| {
            if from == T::dtype() {
                T::read(bytes, out);
            } else {
                T::narrow(&widen(bytes, from), out);
            }
        });
    out
}

fn widen(bytes: &[u8], dtype: DType) -> Vec<f32> {
    fn values<T: Float>(bytes: &[u8]) -> Vec<T> {
        let mut values = vec![T::default(); bytes.len() / size_of::<T>()];
        T::read(bytes, &mut values);
        values
    }
    match dtype {
        DType::F16 => values::<f16>(bytes).to_f32_vec(),
        DType::BF16 => values::<bf16>(bytes).to_f32_vec(),
        DType::F64 => {
            let doubles = bytes.as_chunks().0.iter();
            doubles.map(|b| f64::from_le_bytes(*b) as f32).collect()
        }
        _ => values::<f32>(bytes),
    }
}

/// What weights are held as.
trait Float: Element {
    /// From as many little-endian numbers of this type.
    fn read(bytes: &[u8], out: &mut [Self]);
    /// From as many floats.
    fn narrow(values: &[f32], out: &mut [Self]);
}

impl Float for f32 {
    fn read(bytes: &[u8], out: &mut [Self]) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = Self::from_le_bytes(*bytes);
        }
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

impl Float for f16 {
    fn read(bytes: &[u8], out: &mut [Self]) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = Self::from_le_bytes(*bytes);
        }
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

impl Float for bf16 {
    fn read(bytes: &[u8], out: &mut [Self]) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = Self::from_le_bytes(*bytes);
        }
    }

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

/// A row-major matrix of `columns` elements a row, each `width` bytes, as its columns one after the
/// other.
pub(super) fn transpose(bytes: &[u8], columns: usize, width: usize) -> Vec<u8> {
    match width {
        2 => transpose_elements::<2>(bytes, columns),
        4 => transpose_elements::<4>(bytes, columns),
        _ => transpose_elements::<8>(bytes, columns),
    }
}

/// In square tiles, so that what is read and what is written both stay in the cache; a row of tiles
/// of the result is one core's at a time.
fn transpose_elements<const WIDTH: usize>(bytes: &[u8], columns: usize) -> Vec<u8> {
    const TILE: usize = 64;
    let mut out = vec![0u8; bytes.len()];
    if out.is_empty() {
        return out;
    }
    let elements = bytes.as_chunks::<WIDTH>().0;
    let rows = elements.len() / columns;
    out.par_chunks_mut(TILE * rows * WIDTH)
        .enumerate()
        .for_each(|(index, out)| {
            let out = out.as_chunks_mut::<WIDTH>().0;
            let first = index * TILE;
            for start in (0..rows).step_by(TILE) {
                let end = (start + TILE).min(rows);
                for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                    for (row, out) in (start..end).zip(&mut out[start..end]) {
                        *out = elements[row * columns + first + column];
                    }
                }
            }
        });
    out
}

/// Whether a number that was finite as `before` is infinite as `after`.
pub(super) fn overflowed(before: (&[u8], DType), after: (&[u8], DType)) -> bool {
    infinities(after.0, after.1) > infinities(before.0, before.1)
}

fn infinities(bytes: &[u8], dtype: DType) -> usize {
    let chunks = bytes.par_chunks(CHUNK * dtype.size());
    chunks
        .map(|bytes| {
            widen(bytes, dtype)
                .iter()
                .filter(|v| v.is_infinite())
                .count()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn every_width() {
        // Exact in every type; an odd count, and more than one chunk.
        let values: Vec<f32> = (0..CHUNK + 7).map(|i| (i % 256) as f32 - 128.0).collect();
        let shape = Shape::from([values.len()]);
        let expected = TensorData::new(values.clone(), shape.clone());
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let there = convert(&bytes(&values), shape.clone(), DType::F32, dtype);
            assert_eq!(there.dtype(), dtype);
            for again in [dtype, DType::F32] {
                let back = convert(there.as_bytes(), shape.clone(), dtype, again);
                let back = convert(back.as_bytes(), shape.clone(), again, DType::F32);
                assert_eq!(back, expected, "{dtype:?}");
            }
        }
        let doubles: Vec<u8> = values
            .iter()
            .flat_map(|v| (*v as f64).to_le_bytes())
            .collect();
        assert_eq!(convert(&doubles, shape, DType::F64, DType::F32), expected);
    }

    #[test]
    fn transposed() {
        // More than one block of columns, and a part of one.
        let (rows, columns) = (3, 70);
        for width in [2, 4, 8] {
            let there: Vec<u8> = (0..rows * columns * width)
                .map(|i| (i % 251) as u8)
                .collect();
            let back = transpose(&there, columns, width);
            let element = |bytes: &[u8], index: usize| bytes[index * width..][..width].to_vec();
            for row in 0..rows {
                for column in 0..columns {
                    let old = element(&there, row * columns + column);
                    assert_eq!(element(&back, column * rows + row), old);
                }
            }
            assert_eq!(transpose(&back, rows, width), there);
        }
        assert!(transpose(&[], 0, 4).is_empty());
    }

    #[test]
    fn overflow() {
        let bytes = bytes(&[1.0, 70000.0]);
        let overflows = |dtype| {
            let narrow = convert(&bytes, Shape::from([2]), DType::F32, dtype);
            overflowed((&bytes, DType::F32), (narrow.as_bytes(), dtype))
        };
        assert!(overflows(DType::F16));
        assert!(!overflows(DType::BF16));
    }
}
