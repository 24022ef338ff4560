//! The tensors of one folder, or of one file.
//!
//! Opening reads names, dtypes and shapes only; values are read tensor by tensor. Nothing a file
//! claims is believed: every length is checked against the file itself before it is used, and a
//! pickle is parsed as data, never run.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use burn::{
    store::pytorch_reader::{self, PytorchReader},
    tensor::DType,
};
use safetensors::{
    Dtype,
    tensor::{Metadata, SafeTensorError, SafeTensors},
};

use super::{
    files::{Bytes, Files},
    stored_tensor::{StoredTensor, TensorStorage},
    weight_files::WeightFiles,
};
use crate::{Error, Result, file_kind};

/// Every tensor of a folder, by key.
#[derive(Debug)]
pub(crate) struct Tensors {
    /// The file to name when a tensor is missing.
    pub path: PathBuf,
    pub by_key: BTreeMap<String, StoredTensor>,
}

impl Tensors {
    /// Opens the weights of a folder.
    ///
    /// # Errors
    /// When there are none, or a file is damaged, or an index and its shards disagree.
    pub(crate) fn open(files: &Files) -> Result<Self> {
        let weight_files = WeightFiles::find(files)?;
        let mut tensors = Self {
            path: files.path(&weight_files.name),
            by_key: BTreeMap::new(),
        };
        for shard in weight_files.shards() {
            tensors.add_file(files, shard)?;
        }
        for (key, shard) in weight_files.weight_map.iter().flatten() {
            let path = files.path(shard);
            if tensors.by_key.get(key).map(|tensor| &tensor.file) != Some(&path) {
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
    pub(crate) fn open_file(path: &Path) -> Result<Self> {
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

    /// The weights of a component without parameters, which no file holds.
    pub(crate) fn none(files: &Files) -> Self {
        Self {
            path: files.path(""),
            by_key: BTreeMap::new(),
        }
    }

    fn add_file(&mut self, files: &Files, name: &str) -> Result<()> {
        let bytes = files.bytes(name)?;
        let packed = !name.ends_with(".safetensors") && bytes.starts_with(b"PK");
        // PyTorch's own files are zip archives.
        if let Some(what) = file_kind::mistaken(&bytes).filter(|_| !packed) {
            return Err(Error::invalid(
                files.path(name),
                format!("no weights: {what}"),
            ));
        }
        let tensors = if name.ends_with(".safetensors") {
            safetensors_file(&files.path(name), bytes)?
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

/// The header of a safetensors file, checked against the file's length.
fn safetensors_file(path: &Path, file: Bytes) -> Result<Vec<(String, StoredTensor)>> {
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
            let stored = StoredTensor {
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
                values: TensorStorage::Mapped {
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

fn pytorch_file(files: &Files, name: &str) -> Result<Vec<(String, StoredTensor)>> {
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
            let stored = StoredTensor {
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
                values: TensorStorage::Pytorch(tensor),
            };
            (key, stored)
        })
        .collect())
}
