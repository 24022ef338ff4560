//! The tensors of one folder: one file or several with an index, safetensors or PyTorch.
//!
//! Opening reads names, dtypes and shapes only; values are read tensor by tensor. Nothing a file
//! claims is believed: every length is checked against the file itself before it is used, and a
//! pickle is parsed as data, never run.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use burn::{
    store::pytorch_reader::{self, PytorchReader},
    tensor::{AllocationProperty, DType, Shape, TensorData},
};
use rayon::prelude::*;
use safetensors::{
    Dtype,
    tensor::{Metadata, SafeTensorError, SafeTensors},
};
use serde::Deserialize;
use vila_u_kernels::{Blocks, huge_pages};

use super::{
    files::{Bytes, Files, plain},
    floats::{convert, transpose},
    format::Parameter,
    random,
    weights::in_blocks,
};
use crate::{Error, Result};

/// File names in the order they are looked for; each may also be an index of shards.
const NAMES: [&str; 5] = [
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pt",
    "model.pt",
    "model.pth",
];

/// Bytes that one core copies at a time.
const COPIED: usize = 1 << 20;

/// Every tensor of a folder, by key.
#[derive(Debug)]
pub struct Tensors {
    /// The file to name when a tensor is missing.
    pub path: PathBuf,
    pub by_key: BTreeMap<String, Stored>,
}

/// A tensor in a file, its values not read yet.
#[derive(Clone, Debug)]
pub struct Stored {
    pub file: PathBuf,
    /// The dtype as the format spells it ("F32", "BF16", ...).
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
    /// The dtype if it is floating point, which is what parameters are made of.
    float: Option<DType>,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Mapped { file: Bytes, range: Range<usize> },
    Pytorch(pytorch_reader::Tensor),
    Random(random::Values),
}

/// Which files hold the weights of a folder.
struct Layout {
    /// The file, or the index of the files.
    name: String,
    /// The shard of every tensor, where there is an index.
    weight_map: Option<BTreeMap<String, String>>,
}

impl Layout {
    fn find(files: &Files) -> Result<Self> {
        for name in NAMES {
            if files.contains(name) {
                return Ok(Self {
                    name: name.into(),
                    weight_map: None,
                });
            }
            let index = format!("{name}.index.json");
            if files.contains(&index) {
                return Self::read_index(files, index);
            }
        }
        Err(Error::invalid(
            files.path(""),
            "no weights here (looked for model.safetensors and pytorch_model.bin, whole or with an \
             index of shards)",
        ))
    }

    fn read_index(files: &Files, name: String) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let path = files.path(&name);
        let Index { weight_map } = serde_json::from_slice(&files.read(&name)?)
            .map_err(|error| Error::invalid(&path, format!("not an index of shards: {error}")))?;
        for shard in weight_map.values() {
            if plain(shard).is_none_or(|shard| shard.contains('/')) {
                let reason = format!("shard `{shard}` is not a file of this folder");
                return Err(Error::invalid(&path, reason));
            }
        }
        Ok(Self {
            name,
            weight_map: Some(weight_map),
        })
    }

    fn shards(&self) -> BTreeSet<&String> {
        match &self.weight_map {
            Some(weight_map) => weight_map.values().collect(),
            None => [&self.name].into(),
        }
    }
}

/// Whether a folder has all the weights files that it names.
pub fn is_complete(files: &Files) -> bool {
    Layout::find(files)
        .is_ok_and(|layout| layout.shards().iter().all(|shard| files.contains(shard)))
}

impl Tensors {
    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// When there are none, or a file is damaged, or an index and its shards disagree.
    pub fn open(files: &Files) -> Result<Self> {
        let layout = Layout::find(files)?;
        let mut tensors = Self {
            path: files.path(&layout.name),
            by_key: BTreeMap::new(),
        };
        for shard in layout.shards() {
            tensors.add_file(files, shard)?;
        }
        for (key, shard) in layout.weight_map.iter().flatten() {
            let path = files.path(shard);
            if tensors.by_key.get(key).map(|found| &found.file) != Some(&path) {
                return Err(Error::invalid(
                    path,
                    format!("tensor `{key}` is missing, though the index promises it here"),
                ));
            }
        }
        Ok(tensors)
    }

    /// Opens one file, whatever its name: safetensors if it ends so, otherwise PyTorch.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        let metadata = File::open(path).and_then(|file| file.metadata());
        if !metadata.map_err(Error::io(path))?.is_file() {
            return Err(Error::invalid(
                path,
                "not a file: give the file of the weights",
            ));
        }
        // Nothing for a name alone, so that messages name it as it is given.
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::invalid(path, "not the name of a file"))?;
        let mut tensors = Self {
            path: path.to_path_buf(),
            by_key: BTreeMap::new(),
        };
        tensors.add_file(&Files::folder(folder), name)?;
        Ok(tensors)
    }

    /// The weights of a part without parameters, which no file holds.
    pub fn none(files: &Files) -> Self {
        Self {
            path: files.path(""),
            by_key: BTreeMap::new(),
        }
    }

    fn add_file(&mut self, files: &Files, name: &str) -> Result<()> {
        let tensors = if name.ends_with(".safetensors") {
            safetensors_file(&files.path(name), files.bytes(name)?)?
        } else {
            pytorch_file(files, name)?
        };
        for (key, tensor) in tensors {
            if let Some(other) = self.by_key.get(&key) {
                let reason = format!("tensor `{key}` is also in {}", other.file.display());
                return Err(Error::invalid(&tensor.file, reason));
            }
            self.by_key.insert(key, tensor);
        }
        Ok(())
    }
}

impl Stored {
    /// The floating-point type of the values; None for those in blocks.
    pub fn float(&self) -> Option<DType> {
        self.float
    }

    /// Whether [`Stored::read`] cannot fail: floats in mapped memory, which has been found to hold them.
    pub fn is_certain(&self) -> bool {
        self.float.is_some() && !matches!(self.values, Values::Pytorch(_))
    }

    /// The blocks that the values of this parameter are in.
    pub fn blocks(&self, parameter: &Parameter) -> Option<Blocks> {
        let bytes = self.dtype == "U8";
        bytes.then(|| parameter.stored_blocks(&self.shape))?
    }

    /// Whether these are values for this parameter.
    pub fn fits(&self, parameter: &Parameter) -> bool {
        self.shape == parameter.shape || self.blocks(parameter).is_some()
    }

    /// A tensor that no file holds; `file` says what it is made up from.
    pub(super) fn random(file: PathBuf, shape: Vec<usize>, values: random::Values) -> Self {
        Self {
            file,
            dtype: "random".into(),
            shape,
            bytes: 0,
            float: Some(DType::BF16),
            values: Values::Random(values),
        }
    }

    /// The values as `dtype` (f32, f16 or bf16), row-major; with `transposed`, those of the matrix
    /// with rows and columns exchanged.
    ///
    /// # Errors
    /// When the tensor is not floating point, or its values cannot be read.
    pub fn read(
        &self,
        key: &str,
        parameter: &Parameter,
        dtype: DType,
        transposed: bool,
    ) -> Result<TensorData> {
        let raw = self.raw(key)?;
        let unpacked;
        let (bytes, stored): (&[u8], _) = match (self.blocks(parameter), self.float) {
            (Some(blocks), _) => {
                let weights = blocks.dequantize(&raw);
                let shape = [weights.len()];
                unpacked = TensorData::new(weights, shape);
                (unpacked.as_bytes(), DType::F32)
            }
            (None, Some(stored)) => (&raw, stored),
            (None, None) => {
                return Err(self.fail(key, format!("dtype {} is not floating point", self.dtype)));
            }
        };
        // Both formats have been checked to hold as many bytes as their shapes ask for.
        Ok(match parameter.shape[..] {
            [rows, columns] if transposed => {
                let bytes = transpose(bytes, columns, stored.size());
                convert(&bytes, Shape::from([columns, rows]), stored, dtype)
            }
            _ => convert(bytes, Shape::from(parameter.shape.clone()), stored, dtype),
        })
    }

    /// The values as `dtype` in the shape they are stored in.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub fn floats(&self, key: &str, dtype: DType) -> Result<TensorData> {
        let parameter = Parameter {
            shape: self.shape.clone(),
            linear: false,
        };
        self.read(key, &parameter, dtype, false)
    }

    /// As [`Stored::read`], into memory that is quick to read again and again.
    pub fn read_to_hold(
        &self,
        key: &str,
        parameter: &Parameter,
        dtype: DType,
    ) -> Result<TensorData> {
        let (raw, read);
        let bytes = match self.float == Some(dtype) && cfg!(target_endian = "little") {
            true => {
                raw = self.raw(key)?;
                &*raw
            }
            false => {
                read = self.read(key, parameter, dtype, false)?;
                read.as_bytes()
            }
        };
        let held = huge_pages::filled(bytes.len(), |held| {
            let parts = held.par_chunks_mut(COPIED).zip(bytes.par_chunks(COPIED));
            parts.for_each(|(held, bytes)| held.copy_from_slice(bytes));
        });
        let shape = Shape::from(parameter.shape.clone());
        Ok(TensorData::from_bytes(held, shape, dtype))
    }

    /// Gives memory back that holds the tensor's part of a mapped file.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Values::Mapped {
            file: Bytes::Mapped(map),
            range,
        } = &self.values
        {
            let forget = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: of a read-only mapping of a file; what is read again comes from the file again.
            // Nothing is lost where it fails.
            let _ = unsafe { map.unchecked_advise_range(forget, range.start, range.len()) };
        }
    }

    /// The values in blocks, as bytes `[outputs, bytes of a row]`; as they lie there where the file is mapped
    /// and has them so.
    pub fn read_blocks(
        &self,
        key: &str,
        parameter: &Parameter,
        blocks: Blocks,
    ) -> Result<TensorData> {
        if self.blocks(parameter) == Some(blocks) {
            let bytes = || {
                let shape = Shape::from(self.shape.clone());
                let bytes = self.raw(key)?.into_owned();
                Ok(TensorData::from_bytes_vec(bytes, shape, DType::U8))
            };
            return self.mapped().map_or_else(bytes, Ok);
        }
        let row = match parameter.shape[..] {
            [_, inputs] => blocks.row(inputs),
            _ => None,
        };
        let row = row.ok_or_else(|| self.fail(key, "rows that make no whole blocks".into()))?;
        let values = self.read(key, parameter, DType::F32, false)?;
        in_blocks(key, values, blocks, vec![parameter.shape[0], row])
    }

    fn raw(&self, key: &str) -> Result<Cow<'_, [u8]>> {
        match &self.values {
            Values::Mapped { file, range } => file
                .get(range.clone())
                .map(Cow::Borrowed)
                .ok_or_else(|| self.fail(key, "truncated".into())),
            Values::Pytorch(tensor) => tensor
                .read()
                .map(|bytes| Cow::Owned(bytes.to_vec()))
                .map_err(|error| self.fail(key, error.to_string())),
            Values::Random(values) => Ok(Cow::Owned(values.bytes(self.shape.iter().product()))),
        }
    }

    /// The bytes where they lie in the file, if they are mapped.
    fn mapped(&self) -> Option<TensorData> {
        let Values::Mapped { file, range } = &self.values else {
            return None;
        };
        let bytes = bytes::Bytes::from_owner(file.clone()).slice(range.clone());
        let bytes = burn::tensor::Bytes::from_shared(bytes, AllocationProperty::File);
        let shape = Shape::from(self.shape.clone());
        Some(TensorData::from_bytes(bytes, shape, DType::U8))
    }

    fn fail(&self, key: &str, reason: String) -> Error {
        Error::invalid(&self.file, format!("tensor `{key}`: {reason}"))
    }
}

/// The header of a safetensors file, checked against the file's length.
fn safetensors_file(path: &Path, file: Bytes) -> Result<Vec<(String, Stored)>> {
    let (start, metadata) = match SafeTensors::read_metadata(&file) {
        Ok((header, metadata)) => (8 + header, metadata),
        Err(SafeTensorError::MetadataIncompleteBuffer) => {
            return Err(Error::invalid(path, wrong_length(&file)));
        }
        Err(error) => {
            return Err(Error::invalid(
                path,
                format!("not a safetensors file: {error}"),
            ));
        }
    };
    let tensors = metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(key, info)| {
            let (from, to) = info.data_offsets;
            let stored = Stored {
                file: path.to_path_buf(),
                dtype: format!("{:?}", info.dtype),
                shape: info.shape.clone(),
                bytes: to - from,
                float: match info.dtype {
                    Dtype::F64 => Some(DType::F64),
                    Dtype::F32 => Some(DType::F32),
                    Dtype::F16 => Some(DType::F16),
                    Dtype::BF16 => Some(DType::BF16),
                    _ => None,
                },
                values: Values::Mapped {
                    file: file.clone(),
                    range: start + from..start + to,
                },
            };
            (key, stored)
        })
        .collect())
}

/// What is wrong with a safetensors file whose header is fine and whose length does not fit it.
fn wrong_length(file: &[u8]) -> String {
    let reason = || {
        let (length, rest) = file.split_first_chunk::<8>()?;
        let (header, data) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let metadata: Metadata = serde_json::from_slice(header).ok()?;
        let cut = metadata.offset_keys().into_iter().find_map(|key| {
            let (_, end) = metadata.info(&key)?.data_offsets;
            (end > data.len()).then(|| {
                format!("tensor `{key}` is truncated: it ends at byte {end} of the data, the file at {}", data.len())
            })
        });
        Some(cut.unwrap_or_else(|| {
            format!(
                "{} bytes after the last tensor",
                data.len() - metadata.data_len()
            )
        }))
    };
    reason().unwrap_or_else(|| "the header does not fit the file".into())
}

fn pytorch_file(files: &Files, name: &str) -> Result<Vec<(String, Stored)>> {
    let path = files.path(name);
    let on_disk = files
        .on_disk(name)
        .ok_or_else(|| Error::invalid(&path, "PyTorch files are read from disk only"))?;
    let reader = PytorchReader::new(&on_disk)
        .map_err(|error| Error::invalid(&path, format!("not a PyTorch weights file: {error}")))?;
    Ok(reader
        .into_tensors()
        .into_iter()
        .map(|(key, tensor)| {
            let stored = Stored {
                file: path.clone(),
                dtype: format!("{:?}", tensor.dtype()),
                shape: tensor.shape().to_vec(),
                bytes: tensor.byte_len(),
                float: match tensor.dtype() {
                    pytorch_reader::DType::F64 => Some(DType::F64),
                    pytorch_reader::DType::F32 => Some(DType::F32),
                    pytorch_reader::DType::F16 => Some(DType::F16),
                    pytorch_reader::DType::BF16 => Some(DType::BF16),
                    _ => None,
                },
                values: Values::Pytorch(tensor),
            };
            (key, stored)
        })
        .collect())
}
