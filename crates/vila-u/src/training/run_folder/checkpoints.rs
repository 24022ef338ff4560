//! Checkpoints: all that a run needs to go on exactly where it stopped.
//!
//! A checkpoint is written beside its place, brought to disk and then renamed: it is there as a whole
//! or not at all, and what goes wrong with it never costs the one before.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::optimizer_state;
use crate::training::data::dataloader_state::DataLoaderState;
use crate::training::distributed::ProcessGroup;
use crate::training::model::checkpointer::{Checkpointer, began_with};
use crate::training::optimizer::{AdamW, Shards};
use crate::{Error, Result, atomic};

const DATA: &str = "data.json";
const EMA: &str = "ema/model";

/// The checkpoint with the best evaluation of its stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub step: u64,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// See [`crate::training::trainer::Objective::score`].
    pub score: f64,
}

impl Best {
    /// The step as the best, if its evaluation has a better score than those of the stage `before`.
    pub(crate) fn after(
        before: Option<&Self>,
        step: u64,
        stage: usize,
        score: Option<f64>,
    ) -> Option<Self> {
        let score = score.filter(|score| score.is_finite())?;
        let before = before.filter(|best| best.stage == stage);
        let better = before.is_none_or(|best| score > best.score);
        better.then_some(Self { step, stage, score })
    }
}

/// Where the checkpoint of a step lies.
pub(crate) fn folder(out: &Path, step: u64) -> PathBuf {
    out.join("checkpoints").join(format!("step-{step:08}"))
}

/// The steps of the whole checkpoints in a run folder, oldest first.
pub(crate) fn steps(out: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(out.join("checkpoints")) else {
        return Vec::new();
    };
    let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| step(entry.file_name().to_str()?))
        .collect();
    steps.sort_unstable();
    steps
}

/// Writes the checkpoint of a step, on rank 0, while the others [send it their moments](optimizer_state::send).
///
/// Errors say which one is kept instead.
pub(crate) fn save<C: Checkpointer>(
    out: &Path,
    step: u64,
    checkpointer: &C,
    model: &C::Model,
    ema: Option<&C::Model>,
    (optimizer, shards): (&AdamW, &Shards),
    data: &DataLoaderState,
) -> Result<()> {
    let written = atomic::folder(&folder(out, step), |new| {
        checkpointer.save(model, &new.join("model"))?;
        checkpointer.save_beside(model, new)?;
        if let Some(ema) = ema {
            checkpointer.save(ema, &new.join(EMA))?;
        }
        optimizer_state::write(new, optimizer, shards)?;
        let json = serde_json::to_vec(data).map_err(|error| Error::failed(error.to_string()))?;
        fs::write(new.join(DATA), json).map_err(Error::io(new.join(DATA)))
    });
    written.map_err(|error| {
        let kept = match steps(out).last() {
            Some(last) => format!("that of step {last} is kept"),
            None => "there is none before it".to_string(),
        };
        Error::failed(format!(
            "the checkpoint of step {step} could not be written: {error}; {kept}: make room and go on with --resume"
        ))
    })
}

/// Removes all checkpoints but the last `keep` and the best.
pub(crate) fn rotate(out: &Path, keep: usize, best: Option<&Best>) -> Result<()> {
    let steps = steps(out);
    let old = &steps[..steps.len().saturating_sub(keep)];
    for step in old
        .iter()
        .filter(|step| best.is_none_or(|best| best.step != **step))
    {
        let old = folder(out, *step);
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(())
}

/// Which checkpoint is the best, unless it is gone.
pub(crate) fn best(out: &Path) -> Option<Best> {
    let json = fs::read(best_path(out)).ok()?;
    let best: Best = serde_json::from_slice(&json).ok()?;
    folder(out, best.step).exists().then_some(best)
}

/// Notes the best checkpoint.
pub(crate) fn set_best(out: &Path, best: &Best) -> Result<()> {
    let json = serde_json::to_vec(best).map_err(|error| Error::failed(error.to_string()))?;
    atomic::write(&best_path(out), &json)
}

fn best_path(out: &Path) -> PathBuf {
    out.join("checkpoints/best.json")
}

/// The dataloader's state in the checkpoint of a step.
pub(crate) fn load_data_state(out: &Path, step: u64) -> Result<DataLoaderState> {
    let path = folder(out, step).join(DATA);
    let json = fs::read(&path).map_err(|error| {
        damaged(
            out,
            step,
            format!(
                "{}: {error}: without it nothing says where the data is gone on with",
                path.display()
            ),
        )
    })?;
    serde_json::from_slice(&json)
        .map_err(|error| damaged(out, step, format!("{}: {error}", path.display())))
}

/// Reads model and optimizer of the checkpoint of a step. `has_ema`: whether the recipe asks for it.
pub(crate) fn load<C: Checkpointer>(
    out: &Path,
    step: u64,
    checkpointer: &C,
    has_ema: bool,
    device: &burn::tensor::Device,
    group: &ProcessGroup,
) -> Result<(C::Model, AdamW)> {
    let path = folder(out, step);
    began_with("ema_decay", &path.join(EMA), has_ema)?;
    let read = || {
        let mut model = checkpointer.load(&path.join("model"), device)?;
        checkpointer.load_beside(&mut model, &path, device)?;
        let optimizer = optimizer_state::read(&path, &Shards::new(&model, group), device)?;
        Ok((model, optimizer))
    };
    read().map_err(|error| unreadable(out, step, error))
}

fn unreadable(out: &Path, step: u64, error: Error) -> Error {
    match error {
        Error::Io { .. } | Error::Invalid { .. } => damaged(out, step, error.to_string()),
        error => error,
    }
}

/// Reads the moving average of the weights in the checkpoint of a step.
pub(crate) fn load_ema<C: Checkpointer>(
    out: &Path,
    step: u64,
    checkpointer: &C,
    device: &burn::tensor::Device,
) -> Result<C::Model> {
    let ema = checkpointer.load(&folder(out, step).join(EMA), device);
    ema.map_err(|error| unreadable(out, step, error))
}

/// That a checkpoint cannot be read, and what there is instead.
fn damaged(out: &Path, step: u64, reason: String) -> Error {
    let instead = instead(out, step).unwrap_or_else(|| {
        "no older checkpoint is left: start a new run with --set out=FOLDER".to_string()
    });
    Error::failed(format!("{reason}; {instead}"))
}

/// How to go on from the checkpoint before that of a step, if there is one.
pub(crate) fn instead(out: &Path, step: u64) -> Option<String> {
    let older = steps(out).into_iter().rfind(|older| *older < step)?;
    let path = folder(out, step);
    Some(format!(
        "to go on from step {older} instead, remove {}",
        path.display()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_are_better_are_the_best() {
        let best = Best::after(None, 1, 0, Some(2.0)).unwrap();
        let after = |stage, score| Best::after(Some(&best), 2, stage, score);
        assert!(after(0, Some(3.0)).is_some() && after(1, Some(1.0)).is_some());
        for score in [None, Some(2.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(after(0, score), None);
        }
        assert_eq!(Best::after(None, 1, 0, Some(f64::NAN)), None);
    }
}
