//! The batches of a step, computed in parallel on the cores of a CPU.
//!
//! A small model's operations are too short to share among cores: each would wait for the others
//! after every one of them. A batch for each core shares nothing until its gradients are added up, and a core that
//! has finished its batch takes over parts of the operations of one that has not.

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use rayon::{ThreadPool, ThreadPoolBuilder};
use vila_u_kernels::flush_denormals;

use crate::{Error, Result};

/// How many of a step's batches a CPU computes in parallel.
pub(crate) fn parallel_batches(batches: usize) -> usize {
    batches.min(rayon::current_num_threads())
}

/// All cores, which compute some batches at a time.
pub(crate) struct MicrobatchPool {
    threads: ThreadPool,
    batches: usize,
}

impl MicrobatchPool {
    /// For a step's batches: as many at a time as there are cores, on a GPU one.
    pub(crate) fn new(batches: usize, device: &Device) -> Result<Self> {
        let batches = if crate::device::is_cpu(device) {
            parallel_batches(batches)
        } else {
            1
        };
        let threads = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads());
        let threads = threads.start_handler(|_| flush_denormals()).build();
        Ok(Self {
            threads: threads
                .map_err(|error| Error::failed(format!("starting threads: {error}")))?,
            batches,
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.batches
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
        let fork = |batch| Mutex::new(Some((model.clone().map(&mut Fork), batch)));
        let batches: Vec<_> = batches.into_iter().map(fork).collect();
        // A batch belongs to its thread: one that could be taken over whole might begin in the midst of another's
        // operation, and in its precision.
        let results = self.threads.broadcast(|thread| {
            let batch = batches.get(thread.index())?.lock();
            let (mut model, batch) = batch.unwrap_or_else(PoisonError::into_inner).take()?;
            Some(compute(&mut model, batch))
        });
        results.into_iter().flatten().collect()
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
