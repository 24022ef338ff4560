//! Adapters of the language model in the files of Hugging Face's PEFT.
//!
//! ```text
//! adapter_config.json          rank, alpha, dropout and targets
//! adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, ...
//! ```
//!
//! They belong to the LLaMA in a checkpoint's `llm/`. PEFT stores A as `[rank, inputs]` and B as
//! `[outputs, rank]`, the transposes of ours.

use std::{collections::HashMap, fs, path::Path};

use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use safetensors::{
    SafeTensors,
    tensor::{Dtype, TensorView},
};
use serde_json::{Value, json};

use super::safetensors_writer::write_json;
use crate::{
    Error, Result, atomic,
    language::{Llama, lora::LoraConfig},
    parameters,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes the adapters to `dir`, in place of what is there. `base`: the name of the model that they
/// adapt.
///
/// # Errors
/// When the disk is full or cannot be written. What was there stays then.
pub(crate) fn save(dir: &Path, llm: &Llama, config: &LoraConfig, base: &str) -> Result<()> {
    struct Collect(Vec<(String, Vec<usize>, Vec<u8>)>);
    impl parameters::Visitor for Collect {
        fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            if let Some(key) = key(path) {
                let values = param.val().inner().transpose();
                let shape = values.dims().to_vec();
                let values = values.into_data_as::<f32>();
                let bytes = values.iter::<f32>().flat_map(f32::to_le_bytes).collect();
                self.0.push((key, shape, bytes));
            }
        }
    }
    let mut collect = Collect(Vec::new());
    parameters::visit(llm, &mut collect);

    let failed = |error: safetensors::SafeTensorError| {
        Error::failed(format!("{}: {error}", dir.join(WEIGHTS).display()))
    };
    let mut views = Vec::new();
    for (key, shape, bytes) in &collect.0 {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?;
        views.push((key, view));
    }
    let origin = HashMap::from([("format".to_string(), "pt".to_string())]);
    let settings = settings(config, base);
    atomic::folder(dir, |new| {
        safetensors::serialize_to_file(views, Some(origin), &new.join(WEIGHTS)).map_err(failed)?;
        write_json(&new.join(CONFIG), &settings)
    })
}

/// What PEFT has to know of adapters besides their weights.
fn settings(config: &LoraConfig, base: &str) -> Value {
    // PEFT means a whole number where it can be one.
    let alpha = if config.alpha.fract() == 0.0 {
        json!(config.alpha as u64)
    } else {
        json!(config.alpha)
    };
    json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": config.targets,
        "task_type": "CAUSAL_LM",
    })
}

/// Errors when the adapters in `dir` are others than those of `config`.
fn check(dir: &Path, config: &LoraConfig) -> Result<()> {
    let path = dir.join(CONFIG);
    let stored = fs::read(&path).map_err(Error::io(&path))?;
    let stored: Value = serde_json::from_slice(&stored)
        .map_err(|error| Error::invalid(&path, error.to_string()))?;
    let asked = settings(config, "");
    for (field, key) in [
        ("r", "rank"),
        ("lora_alpha", "alpha"),
        ("target_modules", "target_modules"),
    ] {
        let (before, now) = (&stored[field], &asked[field]);
        if before != now {
            return Err(Error::usage(format!(
                "recipe: the run began with lora.{key} = {before}, and this is {now}: resume with the `lora` that \
                 it began with"
            )));
        }
    }
    Ok(())
}

/// Reads back what [`save`] wrote, bit by bit, into a model that has the adapters of `config`.
///
/// # Errors
/// When these are others, a file is damaged, or an adapter is missing or of another size. The model is unchanged
/// then.
pub(crate) fn load(dir: &Path, llm: &mut Llama, config: &LoraConfig) -> Result<()> {
    struct Fill<'a> {
        file: &'a Path,
        tensors: SafeTensors<'a>,
        error: Option<Error>,
    }
    impl Fill<'_> {
        fn read(&self, key: &str, [inputs, outputs]: [usize; 2]) -> Result<TensorData> {
            let invalid =
                |reason: String| Error::invalid(self.file, format!("tensor `{key}`: {reason}"));
            let stored = self.tensors.tensor(key);
            let stored = stored.map_err(|error| invalid(error.to_string()))?;
            if stored.shape() != [outputs, inputs] || stored.dtype() != Dtype::F32 {
                return Err(invalid(format!(
                    "is {:?} {:?}, and the recipe asks for F32 {:?}",
                    stored.dtype(),
                    stored.shape(),
                    [outputs, inputs]
                )));
            }
            let values = stored.data().as_chunks().0.iter();
            let values: Vec<f32> = values.map(|value| f32::from_le_bytes(*value)).collect();
            Ok(TensorData::new(values, [outputs, inputs]))
        }
    }
    impl parameters::Mapper for Fill<'_> {
        fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (None, Some(key)) = (&self.error, key(path)) else {
                return param;
            };
            let shape = param.lazy_shape();
            match self.read(&key, shape.dims()) {
                Ok(values) => {
                    let device = param.lazy_device();
                    let values = Tensor::<2>::from_data(values, &device).transpose();
                    let id = param.id;
                    param.transform_for_load(values.reshape(shape), id)
                }
                Err(error) => {
                    self.error = Some(error);
                    param
                }
            }
        }
    }
    check(dir, config)?;
    let path = dir.join(WEIGHTS);
    let file = fs::read(&path).map_err(Error::io(&path))?;
    let tensors = SafeTensors::deserialize(&file)
        .map_err(|error| Error::invalid(&path, format!("not a safetensors file: {error}")))?;
    let mut fill = Fill {
        file: &path,
        tensors,
        error: None,
    };
    let filled = parameters::map(llm.clone(), &mut fill);
    match fill.error {
        Some(error) => Err(error),
        None => {
            *llm = filled;
            Ok(())
        }
    }
}

/// PEFT's key of the parameter at a path, if it is one of an adapter.
fn key(path: &str) -> Option<String> {
    let (layer, name) = path.rsplit_once(".lora.")?;
    let name = match name {
        "a" => "lora_A",
        _ => "lora_B",
    };
    Some(format!("base_model.model.{layer}.{name}.weight"))
}
