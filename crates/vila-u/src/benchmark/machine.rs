//! What the machine can do: the limits that cases are held against.
//!
//! Bandwidth is that of all cores together on buffers far larger than any cache. The matrix product
//! is our own kernel's, on factors that fit the cache.

use std::{fs, hint::black_box, time::Instant};

use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use vila_u_kernels::{huge_pages, linear, mixed};

use super::timing::synchronize;
use crate::{Error, Result};

/// Bytes that are read, and half of those that are copied.
const BUFFER: usize = 2 << 30;
/// Rows and columns of the factors.
const SIDE: usize = 2048;
const RUNS: usize = 5;

/// Best of several runs. 1 GB is 10^9 bytes; copying counts what is read and what is written.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub threads: usize,
    pub read_gb_per_s: f64,
    pub copy_gb_per_s: f64,
    pub matmul_gflop_per_s: f64,
    /// With factors rounded to bfloat16, as recipes in mixed precision train.
    pub matmul_bf16_gflop_per_s: f64,
}

impl Machine {
    /// Measures the machine, or the GPU if the device is one.
    ///
    /// # Errors
    /// When the device fails.
    pub fn measure(device: &Device) -> Result<Self> {
        let [read, copy] = match *device == Device::flex() {
            true => bandwidth()?,
            false => device_bandwidth(device)?,
        };
        let random = || Tensor::<2>::random([SIDE, SIDE], Distribution::Normal(0.0, 1.0), device);
        let (x, weight) = (random(), random());
        let product = || {
            linear(x.clone(), weight.clone(), None);
            synchronize(device)
        };
        let gflop = 2.0 * (SIDE as f64).powi(3) / 1e9;
        Ok(Self {
            processor: processor(),
            threads: rayon::current_num_threads(),
            read_gb_per_s: read,
            copy_gb_per_s: copy,
            matmul_gflop_per_s: gflop / best(product)?,
            matmul_bf16_gflop_per_s: gflop / best(|| mixed(product))?,
        })
    }
}

/// Seconds of the fastest run after a first one.
fn best(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Reading and copying on the CPU, in GB/s.
fn bandwidth() -> Result<[f64; 2]> {
    let unavailable = |error| Error::failed(format!("no memory to measure: {error}"));
    // As weights are held.
    let mut buffer = huge_pages::zeros(BUFFER).map_err(unavailable)?;
    buffer.fill(1);
    let threads = rayon::current_num_threads();
    let share = BUFFER.div_ceil(threads);
    let read = best_of(|| {
        let sums = buffer.par_chunks(share).map(sum);
        black_box(sums.sum::<u64>());
    });
    let (from, to) = buffer.split_at_mut(BUFFER / 2);
    let share = share / 2;
    let copy = best_of(|| {
        let parts = to.par_chunks_mut(share).zip(from.par_chunks(share));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
    });
    Ok([read, copy].map(|seconds| BUFFER as f64 / seconds / 1e9))
}

/// From four places at once, in independent sums, so that memory is what is waited for.
fn sum(bytes: &[u8]) -> u64 {
    let lines = bytes.as_chunks::<64>().0;
    let places = lines.chunks_exact(lines.len() / 4);
    let mut sums = [0u64; 8];
    let [a, b, c, d] = std::array::from_fn(|place| places.clone().nth(place).unwrap_or(&[]));
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for line in [a, b, c, d] {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    sums.iter().fold(0, |sum, value| sum.wrapping_add(*value))
}

fn best_of(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..=RUNS {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Reading (a sum) and copying (a product with a number) on a GPU, in GB/s.
fn device_bandwidth(device: &Device) -> Result<[f64; 2]> {
    let values = Tensor::<2>::ones([BUFFER / 4 / SIDE / 2, SIDE], device);
    let bytes = BUFFER as f64 / 2.0;
    let read = best(|| {
        values.clone().sum();
        synchronize(device)
    })?;
    let copy = best(|| {
        let _ = values.clone() * 2.0;
        synchronize(device)
    })?;
    Ok([bytes / read / 1e9, 2.0 * bytes / copy / 1e9])
}

/// The processor's name, where Linux says it.
fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    match model.and_then(|line| line.split_once(':')) {
        Some((_, name)) => name.trim().to_string(),
        None => std::env::consts::ARCH.to_string(),
    }
}
