//! Which part of the gradients and moments each rank keeps, and updates for all (ZeRO stage 1: Rajbhandari and others
//! 2020, arXiv 1910.02054).
//!
//! Parameters are divided in chunks that go around the ranks. A rank gets the mean of the gradients in its chunks, keeps
//! the moments of these, updates them, and all ranks gather the new weights. What they compute is the same to the
//! bit for any number of ranks.

use std::collections::HashMap;

use burn::module::{Module, ParamId};
use burn::tensor::Tensor;

use crate::device::{read_floats, write_floats};
use crate::training::distributed::{CHUNK, Chunks, ProcessGroup};
use crate::{Result, parameters};

/// The parameters of a model as the ranks divide them.
#[derive(Clone, Debug)]
pub(crate) struct Shards {
    group: ProcessGroup,
    by_id: HashMap<ParamId, Sharded>,
    by_path: HashMap<String, Sharded>,
}

#[derive(Clone, Copy, Debug)]
struct Sharded {
    length: usize,
    chunks: Chunks,
}

impl Shards {
    pub(crate) fn new<M: Module>(model: &M, group: &ProcessGroup) -> Self {
        let (mut by_id, mut by_path) = (HashMap::new(), HashMap::new());
        let mut first = 0;
        for parameter in parameters::list(model) {
            let length = parameter.count();
            let chunks = Chunks {
                first,
                ranks: group.world_size(),
            };
            let sharded = Sharded { length, chunks };
            first += length.div_ceil(CHUNK);
            by_id.insert(parameter.id, sharded);
            by_path.insert(parameter.path, sharded);
        }
        Self {
            group: group.clone(),
            by_id,
            by_path,
        }
    }

    /// A model that one rank trains.
    #[cfg(test)]
    pub(crate) fn whole<M: Module>(model: &M) -> Self {
        Self::new(model, &ProcessGroup::default())
    }

    pub(crate) fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// This rank's chunks of the numbers of a parameter.
    pub(crate) fn own<'a>(&self, id: ParamId, list: &'a [f32]) -> Vec<&'a [f32]> {
        let of = |sharded: &Sharded| sharded.chunks.of(self.group.rank(), list);
        self.by_id.get(&id).map(of).into_iter().flatten().collect()
    }

    pub(crate) fn own_mut<'a>(&self, id: ParamId, list: &'a mut [f32]) -> Vec<&'a mut [f32]> {
        match self.by_id.get(&id) {
            None => Vec::new(),
            Some(sharded) => sharded.chunks.of_mut(self.group.rank(), list).collect(),
        }
    }

    /// This rank's chunks of a list on the device of a parameter, one after the other; none where it has none of them.
    pub(crate) fn own_tensor(&self, id: ParamId, list: Tensor<1>) -> Option<Tensor<1>> {
        if self.group.world_size() == 1 {
            return Some(list);
        }
        let Sharded { length, chunks } = *self.by_id.get(&id)?;
        let ranges = chunks.ranges(self.group.rank(), length);
        let own: Vec<Tensor<1>> = ranges.map(|range| list.clone().slice([range])).collect();
        (!own.is_empty()).then(|| Tensor::cat(own, 0))
    }

    /// How many numbers the parameter at a path has, if there is one.
    pub(crate) fn length(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).map(|sharded| sharded.length)
    }

    /// This rank's chunks of the numbers of the parameter at a path, one after the other.
    pub(crate) fn shard(&self, path: &str, list: &[f32]) -> Vec<f32> {
        let of = |sharded: &Sharded| sharded.chunks.of(self.group.rank(), list);
        let chunks = self.by_path.get(path).map(of).into_iter().flatten();
        chunks.flatten().copied().collect()
    }

    /// Makes this rank's chunks of a gradient the means over all ranks.
    pub(crate) fn reduce(&self, id: ParamId, gradient: &mut [f32]) -> Result<()> {
        match self.by_id.get(&id) {
            None => Ok(()),
            Some(sharded) => self.group.reduce_scatter_mean(gradient, sharded.chunks),
        }
    }

    /// Brings the chunks of a parameter from the ranks that have updated them.
    pub(crate) fn gather(&self, id: ParamId, values: &mut [f32]) -> Result<()> {
        match self.by_id.get(&id) {
            None => Ok(()),
            Some(sharded) => self.group.all_gather_chunks(values, sharded.chunks),
        }
    }

    /// The parameter `old` with the chunks that each rank has updated, of which `own` are this rank's. Ranks exchange lists
    /// of the host: those of a GPU go there and come back.
    pub(crate) fn gather_tensor(
        &self,
        id: ParamId,
        own: Option<Tensor<1>>,
        old: Tensor<1>,
    ) -> Result<Tensor<1>> {
        if self.group.world_size() == 1 {
            return Ok(own.unwrap_or(old));
        }
        let mut values = vec![0.0; old.shape().num_elements()];
        if let Some(own) = own {
            let own = read_floats(own)?;
            let chunks = self.own_mut(id, &mut values).into_iter();
            for (chunk, updated) in chunks.zip(own.chunks(CHUNK)) {
                chunk.copy_from_slice(updated);
            }
        }
        self.gather(id, &mut values)?;
        Ok(write_floats(values, &old.device()))
    }

    /// On rank 0, the whole of what each rank has a shard of.
    pub(crate) fn whole_of(&self, path: &str, shard: &[f32]) -> Result<Vec<f32>> {
        match self.by_path.get(path) {
            None => Ok(Vec::new()),
            Some(Sharded { length, chunks }) => self.group.gather_chunks(shard, *length, *chunks),
        }
    }

    /// From sums over this rank's chunks of some parameters, one after the other, those over all chunks in
    /// order, parameter by parameter.
    pub(crate) fn all_sums(&self, ids: &[ParamId], own: Vec<f64>) -> Result<Vec<f64>> {
        // As bits: text would round them.
        let own: Vec<u64> = own.into_iter().map(f64::to_bits).collect();
        let all = self.group.all_gather(own)?;
        let mut all: Vec<_> = all.into_iter().map(Vec::into_iter).collect();
        let sums = ids.iter().map(|id| {
            let owners = self.by_id.get(id).into_iter().flat_map(|sharded| {
                let Chunks { first, ranks } = sharded.chunks;
                let chunks = sharded.length.div_ceil(CHUNK);
                (first..first + chunks).map(move |chunk| chunk % ranks)
            });
            owners
                .filter_map(|rank| all[rank].next())
                .map(f64::from_bits)
                .sum()
        });
        Ok(sums.collect())
    }
}
