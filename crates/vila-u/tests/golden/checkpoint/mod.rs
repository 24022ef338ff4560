//! Checkpoints: what is read is written back byte for byte, from every format, and damaged or hostile
//! files are refused with one error that names the file and what is wrong in it.

mod formats;
mod quantized;
mod refused;
mod saved;

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;
use vila_u::checkpoint::{self, Checkpoint, Files, ModelWeights, WeightDtype};

use crate::fixture::folder;

const PARTS: [&str; 3] = ["llm", "mm_projector", "vision_tower"];

fn original() -> PathBuf {
    folder().join("checkpoint")
}

fn load(folder: &Path) -> vila_u::Result<Checkpoint> {
    checkpoint::load(&Files::folder(folder), &Device::flex(), WeightDtype::F32)
}

/// A copy of the fixture that a test may damage.
fn copy() -> TempDir {
    fn copy_into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy_into(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    copy_into(&original(), temporary.path());
    temporary
}

/// Loads, saves as f32, and compares the weights files with the fixture's, byte for byte.
fn assert_loads_the_same(loaded: &Checkpoint) {
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("out");
    save(&out, loaded, WeightDtype::F32).unwrap();
    assert_same_weights(&out, &original());
}

/// The weights files of two checkpoints are the same, byte for byte.
fn assert_same_weights(one: &Path, other: &Path) {
    for part in PARTS {
        let file = |root: &Path| fs::read(root.join(part).join("model.safetensors")).unwrap();
        assert!(file(one) == file(other), "{part}");
    }
}

fn save(out: &Path, loaded: &Checkpoint, format: WeightDtype) -> vila_u::Result<()> {
    let weights = ModelWeights::of(&loaded.config, &loaded.model);
    checkpoint::save(out, &loaded.config, &weights, &loaded.files, format)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The tensors of a safetensors file.
type Tensors = Vec<Stored>;

/// Key, dtype, shape and values.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(key, view)| {
            let shape = view.shape().to_vec();
            (key.into(), view.dtype(), shape, view.data().to_vec())
        })
        .collect()
}

fn write_tensors<'a>(path: &Path, tensors: impl IntoIterator<Item = &'a Stored>) {
    let views = tensors.into_iter().map(|(key, dtype, shape, data)| {
        (key, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Splits a part's weights into two files with an index; `name` is that of the whole file.
fn shard(folder: &Path, name: &str, write: impl Fn(&Path, &Tensors)) {
    let path = folder.join("model.safetensors");
    let mut first = read_tensors(&path);
    fs::remove_file(path).unwrap();
    let second = first.split_off(first.len() / 2);
    let (stem, ending) = name.split_once('.').unwrap();
    let mut map = serde_json::Map::new();
    for (index, tensors) in [first, second].iter().enumerate() {
        let shard = format!("{stem}-{:05}-of-00002.{ending}", index + 1);
        write(&folder.join(&shard), tensors);
        map.extend(tensors.iter().map(|(key, ..)| (key.clone(), json!(shard))));
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    fs::write(folder.join(format!("{name}.index.json")), index.to_string()).unwrap();
}

/// Loading fails with one line that contains all of `words`.
fn assert_refused(folder: &Path, words: &[&str]) {
    let error = load(folder).expect_err("should be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}
