//! What a run needs to go on exactly where it stopped, and where it keeps it.
//!
//! ```text
//! out/recipe.toml                         the recipe with every override
//! out/metrics.jsonl                       one object a step
//! out/events.out.tfevents.*               the same for TensorBoard
//! out/samples/step-00001000.png           sample sheets
//! out/checkpoints/step-00001000/          the last two checkpoints
//!     model/                              the model in the released layout, f32
//!     ema/model/                          the running mean of its weights, where there is one
//!     discriminator/                      what judges a tower's drawings, where there is one
//!     adapter/                            with LoRA, the adapters of that model, in PEFT's files
//!     optimizer.safetensors               the optimizer's moments and time
//!     data.json                           where the data is gone on with
//! out/skipped.jsonl                       records that could not be used, and why
//! out/model/                              the finished model
//! out/adapter/                            with LoRA, what was merged into it
//! ```
//!
//! A checkpoint is written beside its place and then renamed: it is there as a whole or not at all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};

use super::adamw::{AdamW, Moments};
use super::format::Format;
use super::reading::Place;
use crate::checkpoint::Files;
use crate::{Error, Result};

const OPTIMIZER: &str = "optimizer.safetensors";
const DATA: &str = "data.json";
const MEAN: &str = "ema/model";
/// Checkpoints kept of a run.
const KEEP: usize = 2;

/// Where the checkpoint of a step lies.
pub fn folder(out: &Path, step: u64) -> PathBuf {
    out.join("checkpoints").join(format!("step-{step:08}"))
}

/// The steps of the whole checkpoints in a run folder, oldest first.
pub fn steps(out: &Path) -> Vec<u64> {
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

/// Writes the checkpoint of a step, then removes those before the last two.
pub fn save<F: Format>(
    out: &Path,
    step: u64,
    format: &F,
    model: &F::Model,
    mean: Option<&F::Model>,
    optimizer: &AdamW,
    place: &Place,
) -> Result<()> {
    let parent = out.join("checkpoints");
    fs::create_dir_all(&parent).map_err(Error::io(&parent))?;
    // Removed with everything in it when this function ends.
    let temporary = tempfile::Builder::new()
        .prefix(".saving-")
        .tempdir_in(&parent)
        .map_err(Error::io(&parent))?;
    let new = temporary.path().join("checkpoint");
    fs::create_dir(&new).map_err(Error::io(&new))?;
    format.save(model, &new.join("model"))?;
    format.save_beside(model, &new)?;
    if let Some(mean) = mean {
        format.save(mean, &new.join(MEAN))?;
    }
    write(&new.join(OPTIMIZER), optimizer)?;
    let json = serde_json::to_vec(place).map_err(|error| Error::failed(error.to_string()))?;
    fs::write(new.join(DATA), json).map_err(Error::io(new.join(DATA)))?;
    let place = folder(out, step);
    if place.exists() {
        fs::remove_dir_all(&place).map_err(Error::io(&place))?;
    }
    fs::rename(&new, &place).map_err(Error::io(&place))?;
    let steps = steps(out);
    for old in &steps[..steps.len().saturating_sub(KEEP)] {
        let old = folder(out, *old);
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(())
}

/// Where the checkpoint of a step stands in its data.
pub fn place(out: &Path, step: u64) -> Result<Place> {
    let path = folder(out, step).join(DATA);
    let json = fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&json).map_err(|error| Error::invalid(path, error.to_string()))
}

/// Reads model and optimizer of the checkpoint of a step.
pub fn load<F: Format>(
    out: &Path,
    step: u64,
    format: &F,
    device: &burn::tensor::Device,
) -> Result<(F::Model, AdamW)> {
    let place = folder(out, step);
    let optimizer = read(&place.join(OPTIMIZER))?;
    let mut model = format.load(&place.join("model"), device)?;
    format.load_beside(&mut model, &place, device)?;
    Ok((model, optimizer))
}

/// Reads the running mean of the weights in the checkpoint of a step, if it has one.
pub fn load_mean<F: Format>(
    out: &Path,
    step: u64,
    format: &F,
    device: &burn::tensor::Device,
) -> Result<Option<F::Model>> {
    let place = folder(out, step).join(MEAN);
    match place.exists() {
        true => format.load(&place, device).map(Some),
        false => Ok(None),
    }
}

fn write(path: &Path, optimizer: &AdamW) -> Result<()> {
    let failed =
        |error: safetensors::SafeTensorError| Error::failed(format!("{}: {error}", path.display()));
    let mut views = Vec::new();
    for (parameter, moments) in &optimizer.moments {
        views.push((format!("first.{parameter}"), Floats::new(&moments.first)));
        views.push((format!("second.{parameter}"), Floats::new(&moments.second)));
    }
    let mut time = HashMap::from([("time".to_string(), optimizer.time.to_string())]);
    for (parameter, moments) in &optimizer.moments {
        if moments.since > 0 {
            time.insert(format!("since.{parameter}"), moments.since.to_string());
        }
    }
    safetensors::serialize_to_file(views, Some(time), path).map_err(failed)
}

fn read(path: &Path) -> Result<AdamW> {
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
        let values = tensor.data().as_chunks().0.iter();
        Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
    };
    let mut optimizer = AdamW {
        time,
        ..AdamW::default()
    };
    for name in tensors.names() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let moments = Moments {
                first: floats(name)?,
                second: floats(&format!("second.{parameter}"))?,
                since: number(&format!("since.{parameter}")).unwrap_or_default(),
            };
            optimizer.moments.insert(parameter.to_string(), moments);
        }
    }
    Ok(optimizer)
}

/// Numbers that become bytes when their turn to be written comes, one tensor in memory at a time.
struct Floats<'a> {
    values: &'a [f32],
    shape: [usize; 1],
}

impl<'a> Floats<'a> {
    fn new(values: &'a [f32]) -> Self {
        let shape = [values.len()];
        Self { values, shape }
    }
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.values.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
