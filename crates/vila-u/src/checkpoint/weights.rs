//! Weights between modules and files: which tensor is which parameter, and the strict checks.
//!
//! Modules are built lazily, so a load allocates nothing before everything has been checked, and
//! then one tensor at a time: peak memory is the model plus one tensor.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, ExecutionError, Shape, Tensor, TensorData},
};

use vila_u_kernels::{BLOCK, Blocks, quantized};

use super::{
    files::Files,
    floats::{convert, overflowed, transpose},
    format::{Format, Parameter},
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
    Opened::check_folder(&Files::folder(folder), part, module)?.load(module, Format::F32)
}

/// The weights of a part, opened and found to fit its module.
#[derive(Debug)]
pub struct Opened {
    pub tensors: Tensors,
    pub parameters: BTreeMap<String, Parameter>,
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

    /// The same of the weights in `folder` itself.
    pub fn check_folder<M: Module>(folder: &Files, part: Part, module: &M) -> Result<Self> {
        let parameters = parameters(module, part);
        let tensors = match Random::read(folder)? {
            // A projector without layers has no file either.
            _ if parameters.is_empty() => Tensors::none(folder),
            Some(random) => random.tensors(folder, &parameters),
            None => Tensors::open(folder)?,
        };
        check(&parameters, &tensors, part)?;
        Ok(Self {
            tensors,
            parameters,
            part,
        })
    }

    /// The tensor that holds the parameter `key`.
    pub fn stored(&self, key: &str) -> Option<&Stored> {
        stored(&self.tensors, self.part, key)
    }

    /// Bytes that the weights take on the CPU when loaded in `format`.
    pub fn memory(&self, format: Format) -> u64 {
        let bytes = |(key, parameter): (&String, &Parameter)| {
            let blocks = self.stored(key).and_then(|stored| stored.blocks(parameter));
            let blocks = blocks.or_else(|| parameter.blocks(self.part, key, format));
            match blocks {
                Some(blocks) => parameter.count() / BLOCK * blocks.bytes(),
                None if parameter.is_held(self.part, key) => {
                    parameter.count() * format.float().size()
                }
                None => parameter.count() * DType::F32.size(),
            }
        };
        self.parameters.iter().map(bytes).sum::<usize>() as u64
    }

    /// Every parameter in the order of its key, its values still in the file.
    pub fn outgoing(&self) -> Vec<Outgoing<'_>> {
        let outgoing = |(key, parameter): (&String, &Parameter)| {
            Some(Outgoing {
                key: key.clone(),
                parameter: parameter.clone(),
                part: self.part,
                values: Values::Stored(self.stored(key)?),
            })
        };
        self.parameters.iter().filter_map(outgoing).collect()
    }

    /// Loads the weights in `format`, whatever they are stored as, except that weights stored in blocks
    /// stay in them. On the CPU that is the format of the linear layers' weights and of embedding
    /// tables; all others are f32 there. Weights of the tower's encoders are read when first used, where
    /// that cannot fail: drawing needs neither, a question one.
    ///
    /// # Errors
    /// When values cannot be read. The module is unchanged then.
    pub fn load<M: Module>(&self, module: &mut M, format: Format) -> Result<()> {
        let mut loader = Loader {
            position: Position::default(),
            opened: self,
            format,
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

/// Every parameter of the module by its key, without initialising any.
pub fn parameters<M: Module>(module: &M, part: Part) -> BTreeMap<String, Parameter> {
    struct Shapes {
        position: Position,
        part: Part,
        found: BTreeMap<String, Parameter>,
    }
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.position.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.position.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let parameter = self.position.parameter(param.lazy_shape().to_vec());
            self.found.insert(self.position.key(self.part), parameter);
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

/// A parameter on its way out: what the file will say of it, and where its values are.
pub struct Outgoing<'a> {
    pub key: String,
    pub parameter: Parameter,
    part: Part,
    values: Values<'a>,
}

enum Values<'a> {
    /// Of a module, with linear weights transposed.
    Module(Box<dyn Fn() -> std::result::Result<TensorData, ExecutionError>>),
    Stored(&'a Stored),
}

impl Outgoing<'_> {
    /// The dtype and shape in a file of `format`.
    ///
    /// Running statistics of the codebooks keep their precision: sums and counts exceed f16, and
    /// training goes on from them.
    pub fn layout(&self, format: Format) -> (DType, Vec<usize>) {
        let shape = &self.parameter.shape;
        match (self.blocks(format), &shape[..]) {
            (Some(blocks), [outputs, inputs]) => {
                let row = blocks.row(*inputs).unwrap_or_default();
                (DType::U8, vec![*outputs, row])
            }
            _ if self.key.ends_with("_ema") => (DType::F32, shape.clone()),
            _ => (
                self.parameter.float(self.part, &self.key, format),
                shape.clone(),
            ),
        }
    }

    /// Bytes in a file of `format`.
    pub fn bytes(&self, format: Format) -> usize {
        let (dtype, shape) = self.layout(format);
        shape.iter().product::<usize>() * dtype.size()
    }

    /// The values as in a file of `format`; only now are they read, or brought from the device.
    ///
    /// # Errors
    /// When that fails, or a value is too large for `format`.
    pub fn read(&self, format: Format) -> Result<TensorData> {
        let (dtype, shape) = self.layout(format);
        if let Some(blocks) = self.blocks(format) {
            if let Values::Stored(stored) = self.values
                && stored.blocks(&self.parameter) == Some(blocks)
            {
                return stored.read_blocks(&self.key, &self.parameter, blocks);
            }
            let values = self.read_floats(DType::F32)?;
            return in_blocks(&self.key, values, blocks, shape);
        }
        self.read_floats(dtype)
    }

    fn blocks(&self, format: Format) -> Option<Blocks> {
        self.parameter.blocks(self.part, &self.key, format)
    }

    fn read_floats(&self, dtype: DType) -> Result<TensorData> {
        let fail = |reason: String| Error::failed(format!("tensor `{}`: {reason}", self.key));
        let values = match &self.values {
            Values::Module(values) => values().map_err(|error| fail(error.to_string()))?,
            Values::Stored(stored) => {
                let exact = stored.float().unwrap_or(DType::F32);
                stored.read(&self.key, &self.parameter, exact, false)?
            }
        };
        let old = values.dtype();
        let turned;
        let bytes = match (&self.values, &self.parameter.shape[..]) {
            (Values::Module(_), [outputs, _]) if self.parameter.linear => {
                turned = transpose(values.as_bytes(), *outputs, old.size());
                turned.as_slice()
            }
            _ => values.as_bytes(),
        };
        let shape = Shape::from(self.parameter.shape.clone());
        let converted = convert(bytes, shape, old, dtype);
        if dtype == DType::F16 && overflowed((bytes, old), (converted.as_bytes(), dtype)) {
            return Err(fail("values too large for f16: save as bf16 or f32".into()));
        }
        Ok(converted)
    }
}

/// Every parameter of the module in the order of its key.
pub fn outgoing<M: Module>(module: &M, part: Part) -> Vec<Outgoing<'static>> {
    struct Collector {
        position: Position,
        part: Part,
        found: Vec<Outgoing<'static>>,
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
            self.found.push(Outgoing {
                key: self.position.key(self.part),
                parameter: self.position.parameter(tensor.shape().to_vec()),
                part: self.part,
                values: Values::Module(Box::new(move || tensor.try_to_data())),
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

/// Floats in blocks: bytes of this shape.
pub fn in_blocks(
    key: &str,
    values: TensorData,
    blocks: Blocks,
    shape: Vec<usize>,
) -> Result<TensorData> {
    let fail = |reason: String| Error::failed(format!("tensor `{key}`: {reason}"));
    let values = values.as_slice::<f32>();
    let values = values.map_err(|error| fail(format!("{error:?}")))?;
    let bytes = blocks.quantize(values).ok_or_else(|| {
        fail("values that are not numbers, or too large for blocks with a scale of f16".into())
    })?;
    Ok(TensorData::from_bytes_vec(
        bytes,
        Shape::from(shape),
        DType::U8,
    ))
}

/// The tensor that holds `key`, under that name or the alias that the file has instead.
fn stored<'a>(tensors: &'a Tensors, part: Part, key: &str) -> Option<&'a Stored> {
    let alias = || tensors.by_key.get(&part.alias(key)?);
    tensors.by_key.get(key).or_else(alias)
}

/// Every parameter has a tensor of its shape, and every tensor a parameter.
fn check(parameters: &BTreeMap<String, Parameter>, tensors: &Tensors, part: Part) -> Result<()> {
    let missing: Vec<&String> = parameters
        .keys()
        .filter(|key| stored(tensors, part, key).is_none())
        .collect();
    if let Some(key) = missing.first() {
        let reason = format!("tensor `{key}` is missing{}", and_more(missing.len()));
        return Err(Error::invalid(&tensors.path, reason));
    }
    for (key, parameter) in parameters {
        let stored = stored(tensors, part, key);
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
    parameters: &BTreeMap<String, Parameter>,
    tensors: &Tensors,
    part: Part,
) -> Result<()> {
    for (key, stored) in &tensors.by_key {
        let Some(first) = part.repeats(key) else {
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

    /// The parameter here, whose tensor has this shape. torch stores a linear weight as `[out, in]`,
    /// Burn as `[in, out]`.
    fn parameter(&self, mut shape: Vec<usize>) -> Parameter {
        let is_weight = self.names.last().is_some_and(|name| name == "weight");
        let linear = is_weight && self.module() == "Struct:Linear";
        if linear {
            shape.reverse();
        }
        Parameter { shape, linear }
    }
}

struct Loader<'a> {
    position: Position,
    opened: &'a Opened,
    format: Format,
    error: Option<Error>,
}

impl Loader<'_> {
    fn load<const D: usize>(&self, param: Param<Tensor<D>>) -> Result<Param<Tensor<D>>> {
        let (part, format) = (self.opened.part, self.format);
        let key = self.position.key(part);
        let stored = self.opened.stored(&key).ok_or_else(|| {
            let reason = format!("tensor `{key}` is missing");
            Error::invalid(&self.opened.tensors.path, reason)
        })?;
        let incoming = Incoming {
            parameter: self.position.parameter(param.lazy_shape().to_vec()),
            key,
            stored: stored.clone(),
            part,
            format,
        };
        let (id, device) = (param.id, param.lazy_device());
        if !(Part::is_encoder(&incoming.key) && stored.is_certain()) {
            return Ok(param.transform_for_load(incoming.read(&device)?, id));
        }
        let shape = param.lazy_shape();
        let read = move |device: &Device, require_grad| match incoming.read(device) {
            Ok(tensor) => tensor.set_require_grad(require_grad),
            Err(error) => unreachable!("{error}"),
        };
        Ok(Param::uninitialized(id, read, device, true, shape))
    }
}

/// A parameter on its way in.
struct Incoming {
    key: String,
    parameter: Parameter,
    stored: Stored,
    part: Part,
    format: Format,
}

impl Incoming {
    fn read<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let tensor = self.tensor(device);
        self.stored.release();
        tensor
    }

    fn tensor<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let Self {
            key,
            parameter,
            stored,
            part,
            format,
        } = self;
        let cpu = crate::device::is_cpu(device);
        let blocks = stored.blocks(parameter).filter(|_| cpu);
        if let Some(blocks) = blocks.or_else(|| parameter.blocks(*part, key, *format)) {
            let rows = stored.read_blocks(key, parameter, blocks)?;
            return Ok(Tensor::from_dispatch(
                quantized(blocks, rows).into_dispatch(),
            ));
        }
        // The CPU computes in f32, but reads the weights of linear layers, and tables, as they are stored.
        let narrow = cpu && *format != Format::F32;
        let dtype = match narrow && !parameter.is_held(*part, key) {
            true => DType::F32,
            false => format.float(),
        };
        if !narrow {
            let data = stored.read(key, parameter, dtype, parameter.linear)?;
            return Ok(Tensor::from_data(data, (device, dtype)));
        }
        let data = stored.read_to_hold(key, parameter, dtype)?;
        let tensor = Tensor::from_data(data, (device, dtype));
        Ok(if parameter.linear {
            tensor.transpose()
        } else {
            tensor
        })
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
        match self.load(param.clone()) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
