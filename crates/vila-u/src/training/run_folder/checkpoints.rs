//! Checkpoints: all that a run needs to go on exactly where it stopped.
//!
//! A checkpoint is written beside its place, brought to disk and then renamed: it is there as a whole
//! or not at all, and what goes wrong with it never costs the one before.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Files;
use crate::training::data::dataloader_state::DataLoaderState;
use crate::training::distributed::ProcessGroup;
use crate::training::model::checkpointer::{Checkpointer, began_with};
use crate::training::optimizer::{AdamW, Moments, Shards};
use crate::{Error, Result, atomic};

const OPTIMIZER: &str = "optimizer.safetensors";
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

/// Writes the checkpoint of a step, on rank 0, while the others [send it their moments](send_moments).
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
        write(&new.join(OPTIMIZER), optimizer, shards)?;
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
        let optimizer = read(&path.join(OPTIMIZER), &Shards::new(&model, group))?;
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

/// One of the two moments.
type Moment = fn(&Moments) -> &[f32];

/// How the names of moments begin in a file, in the order in which it has them.
const MOMENTS: [(&str, Moment); 2] = [
    ("first.", |moments| &moments.first),
    ("second.", |moments| &moments.second),
];

fn write(path: &Path, optimizer: &AdamW, shards: &Shards) -> Result<()> {
    let failed =
        |error: safetensors::SafeTensorError| Error::failed(format!("{}: {error}", path.display()));
    let outcome = RefCell::new(Ok(()));
    let mut views = Vec::new();
    for (name, of) in MOMENTS {
        for (parameter, moments) in &optimizer.moments {
            let view = Gathered {
                parameter,
                shard: of(moments),
                shape: [shards.length(parameter).unwrap_or_default()],
                shards,
                outcome: &outcome,
            };
            views.push((format!("{name}{parameter}"), view));
        }
    }
    let mut time = HashMap::from([("time".to_string(), optimizer.time.to_string())]);
    for (parameter, moments) in &optimizer.moments {
        if moments.since > 0 {
            time.insert(format!("since.{parameter}"), moments.since.to_string());
        }
    }
    safetensors::serialize_to_file(views, Some(time), path).map_err(failed)?;
    outcome.into_inner()
}

/// What the other ranks do while rank 0 writes.
pub(crate) fn send_moments(optimizer: &AdamW, shards: &Shards) -> Result<()> {
    for (_, of) in MOMENTS {
        for (parameter, moments) in &optimizer.moments {
            shards.whole_of(parameter, of(moments))?;
        }
    }
    Ok(())
}

/// Reads this rank's part of an optimizer's state.
fn read(path: &Path, shards: &Shards) -> Result<AdamW> {
    // Mapped: moments are twice as large as what is trained.
    let file = Files::folder(path.parent().unwrap_or(path)).bytes(OPTIMIZER)?;
    let invalid = |error: safetensors::SafeTensorError| Error::invalid(path, error.to_string());
    let (_, header) = SafeTensors::read_metadata(&file).map_err(invalid)?;
    let tensors = SafeTensors::deserialize(&file).map_err(invalid)?;
    let number = |name: &str| -> Option<u64> {
        let numbers = header.metadata().as_ref()?;
        numbers.get(name)?.parse().ok()
    };
    let time = number("time").ok_or_else(|| Error::invalid(path, "holds no optimizer"))?;
    let floats = |name: &str| -> Result<Vec<f32>> {
        let tensor = tensors.tensor(name).map_err(invalid)?;
        if tensor.dtype() != Dtype::F32 {
            let dtype = tensor.dtype();
            return Err(Error::invalid(
                path,
                format!("`{name}` is {dtype:?}, not F32"),
            ));
        }
        let values = tensor.data().as_chunks().0.iter();
        Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
    };
    let mut optimizer = AdamW {
        time,
        ..AdamW::default()
    };
    for name in tensors.names() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let [first, second] = [floats(name)?, floats(&format!("second.{parameter}"))?];
            let stored = first.len();
            if stored != second.len() {
                let reason = format!("the two moments of `{parameter}` are not of one size");
                return Err(Error::invalid(path, reason));
            }
            let wrong = match shards.length(parameter) {
                None => Some("which the model does not have".to_string()),
                Some(size) => (size != stored).then(|| format!("which has {size}")),
            };
            if let Some(wrong) = wrong {
                let reason = format!("has moments of {stored} numbers for `{parameter}`, {wrong}");
                return Err(Error::invalid(path, reason));
            }
            let moments = Moments {
                first: shards.shard(parameter, &first),
                second: shards.shard(parameter, &second),
                since: number(&format!("since.{parameter}")).unwrap_or_default(),
            };
            optimizer.moments.insert(parameter.to_string(), moments);
        }
    }
    Ok(optimizer)
}

/// Moments that come from all ranks when their turn to be written has come, one tensor in memory at a time.
struct Gathered<'a> {
    parameter: &'a str,
    shard: &'a [f32],
    shape: [usize; 1],
    shards: &'a Shards,
    /// Whether the other ranks could be reached.
    outcome: &'a RefCell<Result<()>>,
}

impl View for Gathered<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut outcome = self.outcome.borrow_mut();
        let mut whole = Vec::new();
        if outcome.is_ok() {
            match self.shards.whole_of(self.parameter, self.shard) {
                Ok(values) => whole = values,
                Err(error) => *outcome = Err(error),
            }
        }
        whole.resize(self.shape[0], 0.0);
        let bytes = whole.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape[0]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::LinearConfig;
    use safetensors::tensor::TensorView;

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

    #[test]
    fn moments_come_back_and_damaged_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OPTIMIZER);
        let moments = Moments {
            first: vec![1.0, 2.0],
            second: vec![3.0, 4.0],
            since: 5,
        };
        let whole = AdamW {
            moments: [("weight".to_string(), moments)].into(),
            time: 7,
        };
        let device = burn::tensor::Device::flex();
        let shards = |width| {
            let layer = LinearConfig::new(width, 1).with_bias(false);
            Shards::whole(&layer.init(&device))
        };
        let other = shards(3);
        let shards = shards(2);
        write(&path, &whole, &shards).unwrap();
        assert_eq!(read(&path, &shards).unwrap(), whole);
        let error = read(&path, &other).unwrap_err().to_string();
        assert!(
            error.contains("2 numbers for `weight`, which has 3"),
            "{error}"
        );

        for (dtype, second, words) in [
            (Dtype::F32, 1, "of `weight` are not of one size"),
            (Dtype::BF16, 4, "`second.weight` is BF16, not F32"),
        ] {
            let bytes = [0; 8];
            let length = second * dtype.bitsize() / 8;
            let first = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
            let second = TensorView::new(dtype, vec![second], &bytes[..length]).unwrap();
            let time = HashMap::from([("time".to_string(), "7".to_string())]);
            let views = [("first.weight", first), ("second.weight", second)];
            safetensors::serialize_to_file(views, Some(time), &path).unwrap();
            let error = read(&path, &shards).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains(OPTIMIZER),
                "{error}"
            );
        }
    }
}
