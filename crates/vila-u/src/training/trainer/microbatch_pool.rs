//! The batches of a step, computed in parallel on the cores of a CPU.
//!
//! A small model's operations are too short to share among cores: each would wait for the others
//! after every one of them. A batch for each core shares nothing until its gradients are added up.

use std::thread;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use rayon::{ThreadPool, ThreadPoolBuilder};
use vila_u_kernels::flush_denormals;

use crate::{Error, Result};

/// How many of a step's batches a CPU computes in parallel.
pub(crate) fn parallel_batches(batches: usize) -> usize {
    batches.min(rayon::current_num_threads())
}

/// Groups of cores, each of which computes one batch at a time.
pub(crate) struct MicrobatchPool(Vec<ThreadPool>);

impl MicrobatchPool {
    /// One group for each of a step's batches, as far as there are cores, with equally many of them; on a GPU
    /// one.
    pub(crate) fn new(batches: usize, device: &Device) -> Result<Self> {
        let cores = rayon::current_num_threads();
        let groups = if crate::device::is_cpu(device) {
            parallel_batches(batches)
        } else {
            1
        };
        let pool = |_| {
            let pool = ThreadPoolBuilder::new().num_threads(cores / groups);
            let pool = pool.start_handler(|_| flush_denormals()).build();
            pool.map_err(|error| Error::failed(format!("starting threads: {error}")))
        };
        (0..groups).map(pool).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The results of at most [`Self::count`] batches, in their order. A single one may change the
    /// model; of several, each sees a copy.
    pub(crate) fn run<M: Module, B: Send, R: Send>(
        &self,
        model: &mut M,
        mut batches: Vec<B>,
        compute: impl Fn(&mut M, B) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        if batches.len() == 1 {
            return batches
                .drain(..)
                .map(|batch| compute(model, batch))
                .collect();
        }
        thread::scope(|scope| {
            let compute = &compute;
            let mut running = Vec::new();
            for (pool, batch) in self.0.iter().zip(batches) {
                let mut model = model.clone().map(&mut Fork);
                running.push(scope.spawn(move || pool.install(|| compute(&mut model, batch))));
            }
            let finished = running.into_iter().map(|batch| {
                batch
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            finished.collect()
        })
    }
}

/// The same numbers as leaves of a graph of their own: graphs that share leaves share a lock.
struct Fork;

impl ModuleMapper for Fork {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = param.is_require_grad();
        param.map(|tensor| Tensor::from_inner(tensor.inner()).set_require_grad(trained))
    }
}
