//! Weights files as the authors' code reads them: safetensors, above 5 GB in shards with an index.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use burn::tensor::DType;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde_json::{Map, Value, json};

use super::{tensor_to_save::TensorToSave, weight_dtype::WeightDtype};
use crate::{Error, Result};

/// Bytes of tensors in one file, as Hugging Face's default (one tensor may be larger).
pub(super) const SHARD: usize = 5_000_000_000;

/// Writes the tensors to `folder` in `weight_dtype`, one in memory at a time. `before_tensor` is called before each, and
/// its error ends the writing.
///
/// # Errors
/// When the disk is full or cannot be written, or a value does not fit `weight_dtype`.
pub(super) fn write(
    folder: &Path,
    tensors: &[TensorToSave],
    weight_dtype: WeightDtype,
    shard: usize,
    before_tensor: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let shards = split(tensors, weight_dtype, shard);
    let write_file =
        |name: &str, tensors| write_file(&folder.join(name), tensors, weight_dtype, before_tensor);
    if let [whole] = shards.as_slice() {
        return write_file("model.safetensors", whole);
    }
    let mut weight_map = Map::new();
    for (index, tensors) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_file(&name, tensors)?;
        weight_map.extend(tensors.iter().map(|t| (t.key.clone(), name.clone().into())));
    }
    weight_map.sort_keys();
    let total: usize = tensors
        .iter()
        .map(|tensor| tensor.bytes(weight_dtype))
        .sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

/// Consecutive tensors that fit a file together.
fn split<'a, 'v>(
    tensors: &'a [TensorToSave<'v>],
    weight_dtype: WeightDtype,
    shard: usize,
) -> Vec<&'a [TensorToSave<'v>]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.bytes(weight_dtype);
        if index > start && size + bytes > shard {
            shards.push(&tensors[start..index]);
            (start, size) = (index, 0);
        }
        size += bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

/// One file: the length of the header, the header, the tensors.
fn write_file(
    path: &Path,
    tensors: &[TensorToSave],
    weight_dtype: WeightDtype,
    before_tensor: &dyn Fn() -> Result<()>,
) -> Result<()> {
    // The format's own order: wider dtypes first, then by name.
    let mut tensors: Vec<&TensorToSave> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| {
        let width = tensor.layout(weight_dtype).0.size();
        (std::cmp::Reverse(width), &tensor.key)
    });
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes(weight_dtype);
        let (dtype, shape) = tensor.layout(weight_dtype);
        let info = TensorInfo {
            dtype: match dtype {
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::U8 => Dtype::U8,
                _ => Dtype::F32,
            },
            shape,
            data_offsets: (start, end),
        };
        (tensor.key.clone(), info)
    });
    let origin = HashMap::from([("format".to_string(), "pt".to_string())]);
    let header = Metadata::new(Some(origin), infos.collect())
        .map_err(|error| Error::failed(error.to_string()))
        .and_then(|metadata| {
            serde_json::to_vec(&metadata).map_err(|error| Error::failed(error.to_string()))
        })?;
    let padding = header.len().next_multiple_of(8) - header.len();

    let io = |result: std::io::Result<()>| result.map_err(Error::io(path));
    let file = File::create(path).map_err(Error::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    io(out.write_all(&((header.len() + padding) as u64).to_le_bytes()))?;
    io(out.write_all(&header))?;
    io(out.write_all(&b"       "[..padding]))?;
    for tensor in tensors {
        before_tensor()?;
        let data = tensor.read(weight_dtype)?;
        io(out.write_all(data.as_bytes()))?;
    }
    io(out.flush())?;
    io(out.get_ref().sync_all())
}

/// A JSON file as Hugging Face writes it: indented by two, ended by a newline.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::failed(error.to_string()))?;
    let mut file = File::create(path).map_err(Error::io(path))?;
    file.write_all(text.as_bytes()).map_err(Error::io(path))?;
    file.write_all(b"\n").map_err(Error::io(path))?;
    file.sync_all().map_err(Error::io(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::{module::Module, nn, tensor::Device};

    use super::*;
    use crate::checkpoint::{
        files::Files, keys::Component, tensor_to_save::tensors_to_save, tensors::Tensors,
        weights::ComponentWeights,
    };

    #[derive(Module, Debug)]
    struct Layers {
        layers: Vec<nn::Linear>,
    }

    fn layers() -> Layers {
        let layer = |_| nn::LinearConfig::new(6, 4).init(&Device::flex());
        Layers {
            layers: (0..3).map(layer).collect(),
        }
    }

    #[test]
    fn shards_come_back_whole() {
        let module = layers();
        let tensors = tensors_to_save(&module, Component::Llm);
        // A weight has 96 bytes and a bias 16.
        for (shard, files) in [(1 << 20, 1), (250, 2), (112, 3), (1, 6)] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &tensors, WeightDtype::F32, shard, &|| Ok(())).unwrap();
            let files_written = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(files_written, if files == 1 { 1 } else { files + 1 });
            let opened = Tensors::open(&Files::folder(folder.path())).unwrap();
            assert_eq!(opened.by_key.len(), 6);
            let mut other = layers();
            crate::checkpoint::weights::load_into(&mut other, folder.path(), Component::Llm)
                .unwrap();
            for (one, other) in tensors.iter().zip(tensors_to_save(&other, Component::Llm)) {
                assert_eq!(
                    one.read(WeightDtype::F32).unwrap(),
                    other.read(WeightDtype::F32).unwrap(),
                    "{}",
                    one.key
                );
            }
        }
    }

    #[test]
    fn nothing_to_write() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[], WeightDtype::F32, SHARD, &|| Ok(())).unwrap();
        let none = Layers { layers: Vec::new() };
        let files = Files::folder(folder.path());
        assert!(Tensors::open(&files).unwrap().by_key.is_empty());
        ComponentWeights::check(&files, Component::Projector, &none).unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error() {
        // /dev/full takes nothing, like a full disk.
        let full = Path::new("/dev/full");
        if full.exists() {
            let error = write_file(
                full,
                &tensors_to_save(&layers(), Component::Llm),
                WeightDtype::F32,
                &|| Ok(()),
            );
            assert!(matches!(error, Err(Error::Io { .. })), "{error:?}");
        }
    }
}
