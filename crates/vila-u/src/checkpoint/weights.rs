//! Weights between modules and files: which tensor is which parameter, and the strict checks.
//!
//! Modules are built lazily, so a load allocates nothing before everything has been checked, and
//! then one tensor at a time: peak memory is the model plus one tensor.

use std::{collections::BTreeMap, path::Path};

use burn::{module::Module, tensor::DType};
use vila_u_kernels::BLOCK;

use super::{
    files::Files,
    keys::Component,
    parameter::{ParameterSpec, parameter_specs},
    random::RandomWeights,
    stored_tensor::StoredTensor,
    tensor_to_load::Loader,
    tensor_to_save::TensorToSave,
    tensors::Tensors,
    weight_dtype::WeightDtype,
};
use crate::{Error, Result, parameters};

/// Loads `component` from the weights in `folder` (for example `checkpoint/llm`) as f32.
///
/// # Errors
/// One error naming key and file when a tensor is missing, extra, misshapen, truncated or not
/// floating point. The module is unchanged then.
pub fn load_into<M: Module>(module: &mut M, folder: &Path, component: Component) -> Result<()> {
    ComponentWeights::check_folder(&Files::folder(folder), component, module)?
        .load(module, WeightDtype::F32)
}

/// The weights of a component, opened and found to fit its module.
#[derive(Debug)]
pub(crate) struct ComponentWeights {
    pub tensors: Tensors,
    pub parameters: BTreeMap<String, ParameterSpec>,
    pub(super) component: Component,
}

impl ComponentWeights {
    /// Opens the weights of `component` in a checkpoint and checks them against the module, whose
    /// parameters stay uninitialised.
    ///
    /// # Errors
    /// As [`load_into`].
    pub(crate) fn check<M: Module>(
        files: &Files,
        component: Component,
        module: &M,
    ) -> Result<Self> {
        Self::check_folder(&files.join(component.folder()), component, module)
    }

    /// The same of the weights in `folder` itself.
    pub(crate) fn check_folder<M: Module>(
        folder: &Files,
        component: Component,
        module: &M,
    ) -> Result<Self> {
        let parameters = parameter_specs(module, component);
        let tensors = match RandomWeights::read(folder)? {
            // A projector without layers has no file either.
            _ if parameters.is_empty() => Tensors::none(folder),
            Some(random) => random.tensors(folder, &parameters),
            None => Tensors::open(folder)?,
        };
        check(&parameters, &tensors, component)?;
        Ok(Self {
            tensors,
            parameters,
            component,
        })
    }

    /// The tensor that holds the parameter `key`.
    pub(crate) fn stored(&self, key: &str) -> Option<&StoredTensor> {
        stored(&self.tensors, self.component, key)
    }

    /// Bytes that the weights take on the CPU when loaded in `weight_dtype`.
    pub(crate) fn memory(&self, weight_dtype: WeightDtype) -> u64 {
        let bytes = |(key, parameter): (&String, &ParameterSpec)| {
            let blocks = self.stored(key).and_then(|stored| stored.blocks(parameter));
            match blocks.or_else(|| parameter.blocks(weight_dtype)) {
                Some(blocks) => parameter.count() / BLOCK * blocks.block_bytes(),
                None if parameter.keeps_weight_dtype() => {
                    parameter.count() * weight_dtype.float().size()
                }
                None => parameter.count() * DType::F32.size(),
            }
        };
        self.parameters.iter().map(bytes).sum::<usize>() as u64
    }

    /// Every parameter in the order of its key, its values still in the file.
    pub(crate) fn tensors_to_save(&self) -> Vec<TensorToSave<'_>> {
        let to_save = |(key, parameter): (&String, &ParameterSpec)| {
            Some(TensorToSave::stored(key, parameter, self.stored(key)?))
        };
        self.parameters.iter().filter_map(to_save).collect()
    }

    /// Loads the weights in `weight_dtype`, whatever they are stored as, except that weights stored in blocks
    /// stay in them. On the CPU that is the dtype of the linear layers' weights and of embedding
    /// tables; all others are f32 there. Weights of the tower's encoders are read when first used, where
    /// that cannot fail: generating images needs neither, a question one.
    ///
    /// # Errors
    /// When values cannot be read. The module is unchanged then.
    pub(crate) fn load<M: Module>(&self, module: &mut M, weight_dtype: WeightDtype) -> Result<()> {
        let mut loader = Loader {
            weights: self,
            weight_dtype,
            error: None,
        };
        // The clone shares the parameters: nothing is copied, and a failed load leaves the module be.
        let loaded = parameters::map(module.clone(), &mut loader);
        match loader.error {
            Some(error) => Err(error),
            None => {
                *module = loaded;
                Ok(())
            }
        }
    }
}

/// The tensor that holds `key`, under that name or the alias that the file has instead.
fn stored<'a>(tensors: &'a Tensors, component: Component, key: &str) -> Option<&'a StoredTensor> {
    let alias = || tensors.by_key.get(&component.alias(key)?);
    tensors.by_key.get(key).or_else(alias)
}

/// Every parameter has a tensor of its shape, and every tensor a parameter.
fn check(
    parameters: &BTreeMap<String, ParameterSpec>,
    tensors: &Tensors,
    component: Component,
) -> Result<()> {
    let missing: Vec<&String> = parameters
        .keys()
        .filter(|key| stored(tensors, component, key).is_none())
        .collect();
    if let Some(key) = missing.first() {
        let reason = format!("tensor `{key}` is missing{}", and_more(missing.len()));
        return Err(Error::invalid(&tensors.path, reason));
    }
    for (key, parameter) in parameters {
        let stored = stored(tensors, component, key);
        if let Some(stored) = stored.filter(|stored| !stored.fits(parameter)) {
            let reason = format!(
                "tensor `{key}` has shape {:?}, but the configuration asks for {:?}",
                stored.shape, parameter.shape
            );
            return Err(Error::invalid(&stored.file, reason));
        }
    }
    let aliases: Vec<String> = parameters
        .keys()
        .filter_map(|key| component.alias(key))
        .collect();
    let extra: Vec<&String> = tensors
        .by_key
        .keys()
        .filter(|key| key.starts_with(component.prefix()))
        .filter(|key| !parameters.contains_key(*key) && !aliases.contains(key))
        .filter(|key| !Component::is_buffer(key))
        .filter(|key| {
            component
                .repeats(key)
                .is_none_or(|first| !parameters.contains_key(&first))
        })
        .collect();
    if let Some(key) = extra.first() {
        let reason = format!(
            "tensor `{key}`{} is not part of the configured model",
            and_more(extra.len())
        );
        return Err(Error::invalid(&tensors.by_key[*key].file, reason));
    }
    check_repeats(parameters, tensors, component)
}

fn and_more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    }
}

/// A tensor stored a second time must be the same: where it differs, the configuration is wrong about
/// the sharing.
fn check_repeats(
    parameters: &BTreeMap<String, ParameterSpec>,
    tensors: &Tensors,
    component: Component,
) -> Result<()> {
    for (key, stored) in &tensors.by_key {
        let Some(first) = component.repeats(key) else {
            continue;
        };
        let Some(parameter) = parameters.get(&first) else {
            continue;
        };
        if parameters.contains_key(key) {
            continue;
        }
        let original = tensors.by_key[&first].read(&first, parameter, DType::F32, false)?;
        if stored.read(key, parameter, DType::F32, false)? != original {
            let reason = format!(
                "tensor `{key}` differs from `{first}`, but the configuration shares the two \
                 (shared_codebook, tie_word_embeddings)"
            );
            return Err(Error::invalid(&stored.file, reason));
        }
    }
    Ok(())
}
