//! That ranks train the same thing.

use std::hash::{DefaultHasher, Hash, Hasher};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::ProcessGroup;
use crate::training::recipe::Recipe;
use crate::{Error, Result};

impl ProcessGroup {
    /// Errors when a rank is of another version, or is to train something else.
    pub(crate) fn check_same_run(&self, recipe: &Recipe, resume: bool) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        recipe.to_toml()?.hash(&mut hasher);
        let version = env!("CARGO_PKG_VERSION").to_string();
        let all = self.all_gather((version, hasher.finish(), resume))?;
        let (version, recipe, resume) = &all[0];
        for (rank, (other, run, resumed)) in all.iter().enumerate() {
            let reason = if other != version {
                format!("rank {rank} is of version {other}, rank 0 of {version}")
            } else if run != recipe {
                format!("rank {rank} has another recipe than rank 0")
            } else if resumed != resume {
                format!("rank {rank} and rank 0 do not agree on --resume")
            } else {
                continue;
            };
            return Err(Error::usage(reason));
        }
        Ok(())
    }

    /// What each rank has done by itself: its own error, or that of another.
    pub fn agree<T>(&self, outcome: Result<T>) -> Result<T> {
        let reason = outcome.as_ref().err().map(ToString::to_string);
        let reasons = self.all_gather(reason);
        let done = outcome?;
        let other =
            (reasons?.into_iter().enumerate()).find_map(|(rank, reason)| Some((rank, reason?)));
        match other {
            None => Ok(done),
            Some((rank, reason)) => Err(Error::failed(format!("rank {rank}: {reason}"))),
        }
    }

    /// Errors when a number, of which `what` is the name, is not the same on all ranks.
    pub fn check_equal(&self, what: &str, number: impl FnOnce() -> u64) -> Result<()> {
        if self.world_size() == 1 {
            return Ok(());
        }
        let numbers = self.all_gather(number())?;
        match numbers.iter().position(|number| *number != numbers[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::failed(format!(
                "{what} of rank {rank} are not those of rank 0: they compute on different devices, or see \
                 different files; the last checkpoint is kept"
            ))),
        }
    }
}

/// A number that differs where any weight does.
pub(crate) fn checksum<M: Module>(model: &M) -> u64 {
    struct Sum(DefaultHasher);
    impl ModuleVisitor for Sum {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            for value in param.val().into_data_as::<f32>().iter::<f32>() {
                self.0.write_u32(value.to_bits());
            }
        }
    }
    let mut sum = Sum(DefaultHasher::new());
    model.visit(&mut sum);
    sum.0.finish()
}
