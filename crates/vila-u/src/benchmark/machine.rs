//! What the machine can do: the limits that cases are held against.
//!
//! On the CPU, bandwidth is that of all cores together on buffers far larger than any cache, and the matrix
//! product is our own kernel's, on factors that fit the cache. On a GPU, both are what Burn reaches.

use std::{fs, hint::black_box, time::Instant};

use burn::tensor::{DType, Device, Distribution, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use vila_u_kernels::{InstructionSet, huge_pages, linear, mixed_precision};

use super::{
    Watch,
    timing::{self, Effort, synchronize},
};
use crate::{Error, Result, checkpoint::WeightDtype};

/// Bytes that are read, and half of those that are copied; on a GPU half of that.
const BUFFER: usize = 2 << 30;
/// Rows and columns of the factors, on the CPU and on a GPU.
const SIDE: usize = 2048;
const SIDE_ON_GPU: usize = 4096;
const RUNS: usize = 5;
/// A GPU is asked for work of so many seconds before it is waited for.
const SECONDS: f64 = 0.02;

/// Best of several runs. 1 GB is 10^9 bytes; copying counts what is read and what is written.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Or the GPU, where that is what is measured.
    pub processor: String,
    pub threads: usize,
    /// The best that kernels use on the CPU: `amx`, `avx512`, `avx2`, `neon` or `plain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'static str>,
    pub read_gb_per_s: f64,
    pub copy_gb_per_s: f64,
    /// In f32; on a GPU in the format of the weights.
    pub matmul_gflop_per_s: f64,
    /// With factors rounded to bfloat16, as recipes in mixed precision train; on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matmul_bf16_gflop_per_s: Option<f64>,
}

impl Machine {
    /// Measures the machine, or the GPU if the device is one.
    ///
    /// # Errors
    /// When the device fails, and [`Error::Interrupted`] when stopped.
    pub fn measure(device: &Device, weight_dtype: WeightDtype, watch: &Watch) -> Result<Self> {
        let on_cpu = crate::device::is_cpu(device);
        let [read, copy] = if on_cpu {
            bandwidth()?
        } else {
            device_bandwidth(device, watch)?
        };
        let (side, dtype) = if on_cpu {
            (SIDE, DType::F32)
        } else {
            (SIDE_ON_GPU, weight_dtype.float())
        };
        let normal = Distribution::Normal(0.0, 1.0);
        let random = || Tensor::<2>::random([side, side], normal, (device, dtype));
        let (x, weight) = (random(), random());
        let product = || {
            linear(x.clone(), weight.clone(), None);
        };
        let gflop = 2.0 * (side as f64).powi(3) / 1e9;
        let rate = |work: &dyn Fn()| Ok::<_, Error>(gflop / best(device, watch, work)?);
        Ok(Self {
            processor: name(device),
            threads: rayon::current_num_threads(),
            instructions: on_cpu.then(|| InstructionSet::used().name()),
            read_gb_per_s: read,
            copy_gb_per_s: copy,
            matmul_gflop_per_s: rate(&product)?,
            matmul_bf16_gflop_per_s: if on_cpu {
                Some(rate(&|| mixed_precision(product))?)
            } else {
                None
            },
        })
    }
}

/// Seconds of `work` at its fastest, done over and over where it is short.
fn best(device: &Device, watch: &Watch, work: &dyn Fn()) -> Result<f64> {
    work();
    synchronize(device)?;
    let start = Instant::now();
    work();
    synchronize(device)?;
    let times = (SECONDS / start.elapsed().as_secs_f64()).clamp(1.0, 1000.0) as usize;
    let several = || {
        (0..times).for_each(|_| work());
        Ok(())
    };
    let seconds = timing::times(device, watch, Effort::SHORT, several)?;
    Ok(timing::best(&seconds) / times as f64)
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
fn device_bandwidth(device: &Device, watch: &Watch) -> Result<[f64; 2]> {
    let shape = [BUFFER / 2 / size_of::<f32>() / SIDE, SIDE];
    let values = Tensor::<2>::ones(shape, (device, DType::F32));
    let read = best(device, watch, &|| drop(values.clone().sum()))?;
    let copy = best(device, watch, &|| drop(values.clone() * 2.0))?;
    let bytes = (BUFFER / 2) as f64;
    Ok([bytes / read / 1e9, 2.0 * bytes / copy / 1e9])
}

/// The name of a GPU, or else the processor's.
fn name(device: &Device) -> String {
    #[cfg(feature = "gpu")]
    if let Some(identity) = device.identity() {
        return identity.name;
    }
    let _ = device;
    processor()
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
