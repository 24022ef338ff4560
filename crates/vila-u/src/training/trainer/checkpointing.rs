//! When a run saves what it has trained: at its intervals, at a new best, and when it cannot go on.

use super::Trainer;
use crate::training::data::dataloader_state::DataLoaderState;
use crate::training::model::checkpointer::Checkpointer;
use crate::training::optimizer::Shards;
use crate::training::run_folder::checkpoints::{self, Best};
use crate::training::run_folder::failure::Failure;
use crate::training::run_folder::optimizer_state;
use crate::{Error, Result};

/// Why a step is not taken.
pub(super) enum Halt {
    /// It could not be computed.
    Error(Error),
    /// Its loss or its gradient is not finite, or its loss a spike.
    Failure(Failure),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<C: Checkpointer> Trainer<'_, C> {
    /// Writes a checkpoint, and which is the best; then removes old ones. All ranks do it together, and rank 0 writes.
    pub(super) fn save(&mut self, best: Option<Best>) -> Result<()> {
        self.write_checkpoint()?;
        if !self.group.is_main() {
            return Ok(());
        }
        let out = &self.recipe.out;
        if let Some(best) = best {
            checkpoints::set_best(out, &best)?;
            self.best = Some(best);
        }
        checkpoints::rotate(out, self.recipe.keep_checkpoints, self.best.as_ref())
    }

    fn write_checkpoint(&self) -> Result<()> {
        let shards = Shards::new(&self.model, &self.group);
        if !self.group.is_main() {
            return optimizer_state::send(&self.optimizer, &shards);
        }
        if let Some(metrics) = &self.metrics {
            metrics.sync()?;
        }
        let saved = checkpoints::save(
            &self.recipe.out,
            self.step,
            &self.checkpointer,
            &self.model,
            self.ema.as_ref(),
            (&self.optimizer, &shards),
            &self.data.state,
        );
        match self.group.failure() {
            // It is not for want of room.
            Some(error) => Err(self.keep(error)),
            None => saved,
        }
    }

    /// Keeps the state `before` the step that is not taken, and says why it is not.
    pub(super) fn halt(&mut self, halt: Halt, before: (C::Model, DataLoaderState)) -> Error {
        (self.model, self.data.state) = before;
        let failure = match halt {
            Halt::Error(error) => return self.keep(error),
            Halt::Failure(failure) => failure,
        };
        let written = self.write_checkpoint_once();
        if !self.group.is_main() {
            return Error::failed(failure.reason);
        }
        let out = &self.recipe.out;
        let kept = match written.and(failure.write(out)) {
            Ok(()) => {
                // The weights may have been ruined before it showed.
                let again = checkpoints::instead(out, self.step)
                    .map(|instead| format!(" (if it fails again, {instead})"));
                format!(
                    "the checkpoint of step {} is kept, just before it{}",
                    self.step,
                    again.unwrap_or_default()
                )
            }
            Err(error) => error.to_string(),
        };
        Error::failed(format!(
            "{} at step {}: lower the learning rate or raise the warm-up; {kept}; the samples are in failed.json: {}",
            failure.reason,
            failure.step,
            failure.named()
        ))
    }

    /// Keeps what was trained so far, if anything was, when the run cannot go on. Of several ranks no one has all
    /// of it: there the last checkpoint is kept, as rank 0 says.
    pub(super) fn keep(&self, error: Error) -> Error {
        if !self.group.is_main() {
            return error;
        }
        let alone = self.group.world_size() == 1;
        let kept = match alone {
            true if self.step == 0 || self.write_checkpoint_once().is_err() => None,
            true => Some(self.step),
            false => checkpoints::steps(&self.recipe.out).pop(),
        };
        match (error, kept) {
            (error @ (Error::Usage(_) | Error::Interrupted), _) | (error, None) => error,
            (error, Some(step)) => {
                Error::failed(format!("{error}; the checkpoint of step {step} is kept"))
            }
        }
    }

    /// Writes the checkpoint of this step unless it is there. Old ones stay: the state of a run that fails may
    /// be no good.
    fn write_checkpoint_once(&self) -> Result<()> {
        let is_there = checkpoints::steps(&self.recipe.out).last() == Some(&self.step);
        // As rank 0 sees it.
        if self.group.all_gather(is_there)?[0] {
            return Ok(());
        }
        self.write_checkpoint()
    }
}
