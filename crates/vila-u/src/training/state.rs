//! What a run needs to go on exactly where it stopped, and where it keeps it.
//!
//! ```text
//! out/recipe.toml                         the recipe with every override
//! out/metrics.jsonl                       one object a step
//! out/events.out.tfevents.*               the same for TensorBoard
//! out/samples/step-00001000.png           sample sheets
//! out/checkpoints/step-00001000/          the last two checkpoints
//!     state.safetensors                   parameters and moments in f32, step, optimizer time
//! out/model/                              the finished model in the released layout
//! ```
//!
//! A checkpoint is written beside its place and then renamed: it is there as a whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::adamw::{AdamW, Moments};
use crate::{Error, Result};

const FILE: &str = "state.safetensors";
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
    let mut steps: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("step-")?
                .parse()
                .ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

/// Writes the checkpoint of a step, then removes the oldest ones.
pub fn save<M: Module>(out: &Path, step: u64, model: &M, optimizer: &AdamW) -> Result<()> {
    let place = folder(out, step);
    let parent = out.join("checkpoints");
    let temporary = parent.join(format!(".step-{step:08}.part"));
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
    }
    fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
    write(&temporary.join(FILE), step, model, optimizer)?;
    if place.exists() {
        fs::remove_dir_all(&place).map_err(Error::io(&place))?;
    }
    fs::rename(&temporary, &place).map_err(Error::io(&place))?;
    let steps = steps(out);
    for old in &steps[..steps.len().saturating_sub(KEEP)] {
        let old = folder(out, *old);
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    Ok(())
}

fn write<M: Module>(path: &Path, step: u64, model: &M, optimizer: &AdamW) -> Result<()> {
    let mut tensors: BTreeMap<String, (Vec<u8>, Vec<usize>)> = BTreeMap::new();
    let mut parameters = Parameters::default();
    model.visit(&mut parameters);
    for (path, data) in parameters.found {
        let shape = data.shape().to_vec();
        tensors.insert(
            format!("parameter.{path}"),
            (data.as_bytes().to_vec(), shape),
        );
    }
    for (path, moments) in &optimizer.moments {
        for (name, values) in [("first", &moments.first), ("second", &moments.second)] {
            let bytes = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            tensors.insert(format!("{name}.{path}"), (bytes, vec![values.len()]));
        }
    }
    let unwritable =
        |error: safetensors::SafeTensorError| Error::failed(format!("{}: {error}", path.display()));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, (bytes, shape)) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(unwritable)?;
        views.push((name.as_str(), view));
    }
    let numbers = HashMap::from([
        ("step".to_string(), step.to_string()),
        ("time".to_string(), optimizer.time.to_string()),
    ]);
    safetensors::serialize_to_file(views, Some(numbers), path).map_err(unwritable)
}

/// Reads the newest checkpoint of a run into `model` and gives its step and optimizer.
pub fn load<M: Module>(out: &Path, model: M) -> Result<(u64, M, AdamW)> {
    let Some(step) = steps(out).pop() else {
        return Err(Error::usage(format!(
            "{} holds no checkpoint to resume from: run without --resume",
            out.display()
        )));
    };
    let path = folder(out, step).join(FILE);
    let file = fs::read(&path).map_err(Error::io(&path))?;
    let invalid = |error: safetensors::SafeTensorError| Error::invalid(&path, error.to_string());
    let (_, header) = SafeTensors::read_metadata(&file).map_err(invalid)?;
    let tensors = SafeTensors::deserialize(&file).map_err(invalid)?;
    let time = header
        .metadata()
        .as_ref()
        .and_then(|numbers| numbers.get("time")?.parse().ok())
        .ok_or_else(|| Error::invalid(&path, "is not a training checkpoint"))?;
    let mut optimizer = AdamW {
        time,
        ..AdamW::default()
    };
    for (name, view) in tensors.tensors() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let second = tensors
                .tensor(&format!("second.{parameter}"))
                .map_err(invalid)?;
            let moments = Moments {
                first: floats(view.data()),
                second: floats(second.data()),
            };
            optimizer.moments.insert(parameter.to_string(), moments);
        }
    }
    let mut restore = Restore {
        path: Vec::new(),
        tensors: &tensors,
        mismatch: None,
    };
    let model = model.map(&mut restore);
    match restore.mismatch {
        None => Ok((step, model, optimizer)),
        Some(name) => Err(Error::invalid(
            &path,
            format!(
                "does not fit the recipe's model at `{name}`: resume with the recipe it was started with"
            ),
        )),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().inner().into_data_as::<f32>();
        self.found.insert(self.path.join("."), data);
    }
}

struct Restore<'a> {
    path: Vec<String>,
    tensors: &'a SafeTensors<'a>,
    mismatch: Option<String>,
}

impl ModuleMapper for Restore<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let shape = param.lazy_shape();
        match self.tensors.tensor(&format!("parameter.{path}")) {
            Ok(view) if view.shape() == shape.as_slice() => {
                let data = TensorData::new(floats(view.data()), shape);
                let tensor = Tensor::from_data(data, &param.lazy_device());
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            _ => {
                self.mismatch.get_or_insert(path);
                param
            }
        }
    }
}
