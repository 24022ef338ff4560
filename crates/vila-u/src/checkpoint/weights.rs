//! Weights between modules and files: which tensor is which parameter, and the strict checks.
//!
//! Modules are built lazily, so a load allocates nothing before everything has been checked, and
//! then one tensor at a time: peak memory is the model plus one tensor.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, ExecutionError, Shape, Tensor, TensorData},
};

use super::{
    files::Files,
    floats::{convert, overflowed, transpose},
    keys::Part,
    random::Random,
    tensors::{Stored, Tensors},
};
use crate::{Error, Result};

/// Loads `part` from the weights in `folder` (for example `checkpoint/llm`) as f32.
///
/// # Errors
/// One error naming key and file when a tensor is missing, extra, misshapen, truncated or not
/// floating point. The module is unchanged then.
pub fn load_into<M: Module>(module: &mut M, folder: &Path, part: Part) -> Result<()> {
    Opened::check_folder(&Files::folder(folder), part, module)?.load(module, DType::F32)
}

/// The weights of a part, opened and found to fit its module.
#[derive(Debug)]
pub struct Opened {
    pub tensors: Tensors,
    part: Part,
}

impl Opened {
    /// Opens the weights of `part` in a checkpoint and checks them against the module, whose
    /// parameters stay uninitialised.
    ///
    /// # Errors
    /// As [`load_into`].
    pub fn check<M: Module>(files: &Files, part: Part, module: &M) -> Result<Self> {
        Self::check_folder(&files.join(part.folder()), part, module)
    }

    fn check_folder<M: Module>(folder: &Files, part: Part, module: &M) -> Result<Self> {
        let parameters = parameters(module, part);
        let tensors = match Random::read(folder)? {
            // A projector without layers has no file either.
            _ if parameters.is_empty() => Tensors::none(folder),
            Some(random) => random.tensors(folder, &parameters),
            None => Tensors::open(folder)?,
        };
        check(&parameters, &tensors, part)?;
        Ok(Self { tensors, part })
    }

    /// The tensor that holds the parameter `key`.
    pub fn stored(&self, key: &str) -> Option<&Stored> {
        stored(&self.tensors, self.part, key)
    }

    /// Loads the weights as `dtype` (f32, f16 or bf16), whatever dtype they are stored as. On the CPU
    /// that is the dtype of the linear layers' weights; all others are f32 there.
    ///
    /// # Errors
    /// When values cannot be read. The module is unchanged then.
    pub fn load<M: Module>(&self, module: &mut M, dtype: DType) -> Result<()> {
        let mut loader = Loader {
            position: Position::default(),
            opened: self,
            dtype,
            error: None,
        };
        // The clone shares the parameters: nothing is copied, and a failed load leaves the module be.
        let loaded = module.clone().map(&mut loader);
        match loader.error {
            Some(error) => Err(error),
            None => {
                *module = loaded;
                Ok(())
            }
        }
    }
}

/// Key and shape (as stored) of every parameter of the module, without initialising any.
pub fn parameters<M: Module>(module: &M, part: Part) -> BTreeMap<String, Vec<usize>> {
    struct Shapes {
        position: Position,
        part: Part,
        found: BTreeMap<String, Vec<usize>>,
    }
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.position.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.position.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let mut shape = param.lazy_shape().to_vec();
            if self.position.is_transposed() {
                shape.reverse();
            }
            self.found.insert(self.position.key(self.part), shape);
        }
    }
    let mut shapes = Shapes {
        position: Position::default(),
        part,
        found: BTreeMap::new(),
    };
    module.visit(&mut shapes);
    shapes.found
}

/// A parameter on its way out: what the file will say of it, and how to get its values.
pub struct Outgoing {
    pub key: String,
    /// As stored, with linear weights transposed back.
    pub shape: Vec<usize>,
    transposed: bool,
    values: Box<dyn Fn() -> std::result::Result<TensorData, ExecutionError>>,
}

impl Outgoing {
    /// The values as `dtype` (f32, f16 or bf16); only now are they brought from the device.
    ///
    /// # Errors
    /// When that fails, or a value is too large for `dtype`.
    pub fn read(&self, dtype: DType) -> Result<TensorData> {
        let fail = |reason: String| Error::failed(format!("tensor `{}`: {reason}", self.key));
        let data = (self.values)().map_err(|error| fail(error.to_string()))?;
        let old = data.dtype();
        let turned;
        let bytes = match self.shape[..] {
            [rows, _] if self.transposed => {
                turned = transpose(data.as_bytes(), rows, old.size());
                turned.as_slice()
            }
            _ => data.as_bytes(),
        };
        let converted = convert(bytes, Shape::from(self.shape.clone()), old, dtype);
        if dtype == DType::F16 && overflowed((bytes, old), (converted.as_bytes(), dtype)) {
            return Err(fail("values too large for f16: save as bf16 or f32".into()));
        }
        Ok(converted)
    }
}

/// Every parameter of the module in the order of its key.
pub fn outgoing<M: Module>(module: &M, part: Part) -> Vec<Outgoing> {
    struct Collector {
        position: Position,
        part: Part,
        found: Vec<Outgoing>,
    }
    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.position.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.position.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let transposed = self.position.is_transposed();
            let mut shape = tensor.shape().to_vec();
            if transposed {
                shape.reverse();
            }
            self.found.push(Outgoing {
                key: self.position.key(self.part),
                shape,
                transposed,
                values: Box::new(move || tensor.try_to_data()),
            });
        }
    }
    let mut collector = Collector {
        position: Position::default(),
        part,
        found: Vec::new(),
    };
    module.visit(&mut collector);
    collector.found.sort_by(|a, b| a.key.cmp(&b.key));
    collector.found
}

/// The tensor that holds `key`, under that name or the alias that the file has instead.
fn stored<'a>(tensors: &'a Tensors, part: Part, key: &str) -> Option<&'a Stored> {
    let alias = || tensors.by_key.get(&part.alias(key)?);
    tensors.by_key.get(key).or_else(alias)
}

/// Every parameter has a tensor of its shape, and every tensor a parameter.
fn check(parameters: &BTreeMap<String, Vec<usize>>, tensors: &Tensors, part: Part) -> Result<()> {
    let missing: Vec<&String> = parameters
        .keys()
        .filter(|key| stored(tensors, part, key).is_none())
        .collect();
    if let Some(key) = missing.first() {
        let reason = format!("tensor `{key}` is missing{}", and_more(missing.len()));
        return Err(Error::invalid(&tensors.path, reason));
    }
    for (key, shape) in parameters {
        let stored = stored(tensors, part, key);
        if let Some(stored) = stored.filter(|stored| stored.shape != *shape) {
            let reason = format!(
                "tensor `{key}` has shape {:?}, but the configuration asks for {shape:?}",
                stored.shape
            );
            return Err(Error::invalid(&stored.file, reason));
        }
    }
    let aliases: Vec<String> = parameters
        .keys()
        .filter_map(|key| part.alias(key))
        .collect();
    let extra: Vec<&String> = tensors
        .by_key
        .keys()
        .filter(|key| key.starts_with(part.prefix()))
        .filter(|key| !parameters.contains_key(*key) && !aliases.contains(key))
        .filter(|key| !Part::is_buffer(key))
        .filter(|key| {
            part.repeats(key)
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
    check_repeats(parameters, tensors, part)
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
    parameters: &BTreeMap<String, Vec<usize>>,
    tensors: &Tensors,
    part: Part,
) -> Result<()> {
    for (key, stored) in &tensors.by_key {
        let Some(first) = part.repeats(key) else {
            continue;
        };
        if parameters.contains_key(key) || !parameters.contains_key(&first) {
            continue;
        }
        let original = tensors.by_key[&first].read(&first, DType::F32, false)?;
        if stored.read(key, DType::F32, false)? != original {
            let reason = format!(
                "tensor `{key}` differs from `{first}`, but the configuration shares the two \
                 (shared_codebook, tie_word_embeddings)"
            );
            return Err(Error::invalid(&stored.file, reason));
        }
    }
    Ok(())
}

/// Where a traversal of a module is.
#[derive(Default)]
struct Position {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Position {
    fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.to_string());
        self.containers.push(container.to_string());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// The module type that declares the parameter.
    fn module(&self) -> &str {
        self.containers.last().map_or("", String::as_str)
    }

    /// The checkpoint key of the parameter.
    fn key(&self, part: Part) -> String {
        let mut names = self.names.clone();
        let norm = ["Struct:LayerNorm", "Struct:GroupNorm", "Struct:RmsNorm"];
        if norm.contains(&self.module())
            && let Some(name) = names.last_mut()
        {
            match name.as_str() {
                "gamma" => *name = "weight".into(),
                "beta" => *name = "bias".into(),
                _ => {}
            }
        }
        part.key(&names.join("."))
    }

    /// torch stores a linear weight as `[out, in]`, Burn as `[in, out]`.
    fn is_transposed(&self) -> bool {
        self.module() == "Struct:Linear" && self.names.last().is_some_and(|name| name == "weight")
    }
}

struct Loader<'a> {
    position: Position,
    opened: &'a Opened,
    dtype: DType,
    error: Option<Error>,
}

impl Loader<'_> {
    fn read(&self, dtype: DType, transposed: bool) -> Result<TensorData> {
        let key = self.position.key(self.opened.part);
        let stored = self.opened.stored(&key).ok_or_else(|| {
            let reason = format!("tensor `{key}` is missing");
            Error::invalid(&self.opened.tensors.path, reason)
        })?;
        stored.read(&key, dtype, transposed)
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let device = param.lazy_device();
        let linear = self.position.is_transposed();
        // The CPU computes in f32, but reads the weights of linear layers as they are stored.
        let narrow = self.dtype != DType::F32 && device == Device::flex();
        let dtype = match narrow && !linear {
            true => DType::F32,
            false => self.dtype,
        };
        match self.read(dtype, linear && !narrow) {
            Ok(data) => {
                let mut tensor = Tensor::from_data(data, (&device, dtype));
                if narrow && linear {
                    tensor = tensor.transpose();
                }
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
