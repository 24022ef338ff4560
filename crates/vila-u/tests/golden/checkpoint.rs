//! Checkpoints: what is read is written back byte for byte, from every format, and damaged or hostile
//! files are refused with one error that names the file and what is wrong in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;
use vila_u::checkpoint::{self, Checkpoint, Files, Format, Source, Weights};

use crate::{
    fixture::folder,
    torch_file::{Entry, archive, state_dict},
};

const PARTS: [&str; 3] = ["llm", "mm_projector", "vision_tower"];

fn original() -> PathBuf {
    folder().join("checkpoint")
}

fn load(folder: &Path) -> vila_u::Result<Checkpoint> {
    checkpoint::load(&Files::folder(folder), &Device::flex(), Format::F32)
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
    save(&out, loaded, Format::F32).unwrap();
    for part in PARTS {
        let file = |root: &Path| fs::read(root.join(part).join("model.safetensors")).unwrap();
        assert!(file(&out) == file(&original()), "{part}");
    }
}

fn save(out: &Path, loaded: &Checkpoint, format: Format) -> vila_u::Result<()> {
    let weights = Weights::of(&loaded.config, &loaded.model);
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

/// Loading fails with one line that contains all of `words`.
fn assert_refused(folder: &Path, words: &[&str]) {
    let error = load(folder).expect_err("should be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}

#[test]
fn encoders_are_read_when_they_are_first_used() {
    let model = load(&original()).unwrap().model;
    let encoders = &model.vision_tower.rqvaesiglip.siglip_model;
    let texts = &encoders.text_model.head.weight;
    let images = &encoders.vision_model.encoder.layers[0].mlp.fc1.weight;
    assert!(!texts.is_initialized() && !images.is_initialized());
    assert!(model.llm.model.norm.gamma.is_initialized());
    let (_, _, shape, stored) = read_tensors(&original().join("vision_tower/model.safetensors"))
        .into_iter()
        .find(|(key, ..)| key == "rqvaesiglip.siglip_model.text_model.head.weight")
        .unwrap();
    let read = texts.val().transpose();
    assert_eq!(read.dims().to_vec(), shape);
    assert!(read.into_data().as_bytes() == stored);
    assert!(!images.is_initialized());
}

#[test]
fn saved_as_it_was_loaded() {
    let loaded = load(&original()).unwrap();
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("new/out");
    save(&out, &loaded, Format::F32).unwrap();
    for part in PARTS {
        let file = |root: &Path| fs::read(root.join(part).join("model.safetensors")).unwrap();
        assert!(file(&out) == file(&original()), "{part}");
    }
    for name in [
        "tokenizer.model",
        "added_tokens.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ] {
        let file = |root: &Path| fs::read(root.join("llm").join(name)).unwrap();
        assert_eq!(file(&out), file(&original()), "{name}");
    }
    // Every field is still there with its value; added ones are those that Hugging Face leaves out.
    fn assert_contains(new: &Value, old: &Value, at: &str) {
        match (new, old) {
            (Value::Object(new), Value::Object(old)) => {
                for (name, old) in old {
                    let at = format!("{at}.{name}");
                    let new = new.get(name).unwrap_or_else(|| panic!("{at} is gone"));
                    assert_contains(new, old, &at);
                }
            }
            _ => assert_eq!(new, old, "{at}"),
        }
    }
    for name in [
        "llm/config.json",
        "llm/generation_config.json",
        "mm_projector/config.json",
        "vision_tower/config.json",
        "vision_tower/preprocessor_config.json",
        "siglip/config.json",
    ] {
        assert_contains(
            &read_json(&out.join(name)),
            &read_json(&original().join(name)),
            name,
        );
    }
    let (mut new, mut old) = (
        read_json(&out.join("config.json")),
        read_json(&original().join("config.json")),
    );
    for part in ["llm_cfg", "mm_projector_cfg", "vision_tower_cfg"] {
        assert!(new[part]["architectures"].is_array());
        old[part] = Value::Null;
        new[part] = Value::Null;
    }
    assert_eq!(new["resume_path"], out.to_str().unwrap());
    old["resume_path"] = new["resume_path"].clone();
    assert_contains(&new, &old, "config.json");

    // Nothing is put over it, and nothing is left beside it.
    let error = save(&out, &loaded, Format::F32).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
    load(&out).unwrap();
}

#[test]
fn saved_in_half_precision() {
    let loaded = load(&original()).unwrap();
    let target = tempfile::tempdir().unwrap();
    for (format, stored) in [(Format::F16, Dtype::F16), (Format::BF16, Dtype::BF16)] {
        let out = target.path().join(format!("{stored:?}"));
        save(&out, &loaded, format).unwrap();
        for (key, dtype, ..) in read_tensors(&out.join("vision_tower/model.safetensors")) {
            let is_statistic = key.ends_with("_ema");
            assert_eq!(
                dtype,
                if is_statistic { Dtype::F32 } else { stored },
                "{key}"
            );
        }
        let again = load(&out).unwrap();
        let weight = |c: &Checkpoint| {
            let weight = c.model.llm.model.layers[1].mlp.down_proj.weight.val();
            weight.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let error = crate::fixture::relative_error(&weight(&again), &weight(&loaded));
        assert!(error > 0.0 && error < 4e-3, "{error}");
        // Loaded as it is stored, it can be saved again without any loss.
        let half = checkpoint::load(&Files::folder(&out), &Device::flex(), format).unwrap();
        let second = target.path().join(format!("{stored:?}-again"));
        save(&second, &half, format).unwrap();
        // So can a conversion that never loads it.
        let third = target.path().join(format!("{stored:?}-converted"));
        checkpoint::convert(&third, &Files::folder(&out), format).unwrap();
        for part in PARTS {
            let file = |root: &Path| fs::read(root.join(part).join("model.safetensors")).unwrap();
            assert!(file(&out) == file(&second) && file(&out) == file(&third));
        }
    }
}

/// What the linear layers of a model lead to: text logits, logits of the first code, visual features and
/// what the projector makes of them.
fn outputs(loaded: &Checkpoint, pixels: &Tensor<4>, tokens: usize) -> [Vec<f32>; 4] {
    let (model, device) = (&loaded.model, Device::flex());
    let numbers = |first: i64| {
        let numbers = (first..first + tokens as i64).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(numbers, [1, tokens]), &device)
    };
    let embeds = model.llm.embed(numbers(1));
    let hidden = model.llm.forward(embeds, numbers(0), None, None);
    let depth = &model.vision_tower.rqtransformer;
    let last = hidden.clone().narrow(1, tokens - 1, 1).squeeze_dim::<2>(1);
    let codes = depth.first(last, &mut depth.cache(1));
    let features = model.vision_tower.rqvaesiglip.features(pixels.clone());
    let projected = model.mm_projector.forward(features.clone());
    let outputs = [
        model.llm.logits(hidden).into_data(),
        codes.into_data(),
        features.into_data(),
        projected.into_data(),
    ];
    outputs.map(|data| data.iter::<f32>().collect())
}

fn weight_dtype(loaded: &Checkpoint) -> DType {
    let layer = &loaded.model.llm.model.layers[1];
    layer.mlp.down_proj.weight.val().dtype()
}

/// The same weights, held as bf16 or widened to f32 when loaded: the same model.
#[test]
fn held_in_bfloat16() {
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("bf16");
    save(&out, &load(&original()).unwrap(), Format::BF16).unwrap();
    let files = Files::folder(&out);
    let [wide, narrow] = [Format::F32, Format::BF16]
        .map(|format| checkpoint::load(&files, &Device::flex(), format).unwrap());
    assert_eq!(
        [&wide, &narrow].map(weight_dtype),
        [DType::F32, DType::BF16]
    );

    let pixels = Tensor::<4>::random([1, 3, 64, 64], Distribution::Default, &Device::flex());
    // Few positions and many take different ways.
    for tokens in [1, 39] {
        let (narrow, wide) = (
            outputs(&narrow, &pixels, tokens),
            outputs(&wide, &pixels, tokens),
        );
        for (narrow, wide) in narrow.iter().zip(&wide) {
            let error = crate::fixture::relative_error(narrow, wide);
            assert!(error < 1e-5, "{error}");
        }
    }
}

/// Weights in blocks, written to files or made while loading: the same model, as far from the original as
/// so many bits are, and back in floating point exactly what the blocks stood for.
#[test]
fn quantized() {
    let target = tempfile::tempdir().unwrap();
    let whole = load(&original()).unwrap();
    let pixels = Tensor::<4>::random([1, 3, 64, 64], Distribution::Default, &Device::flex());
    for (format, most) in [(Format::Q8_0, 0.05), (Format::Q4_0, 0.4)] {
        let out = target.path().join(format.name());
        checkpoint::convert(&out, &Files::folder(original()), format).unwrap();
        let config = read_json(&out.join("llm/config.json"));
        assert_eq!(config["quantization_config"]["quant_method"], format.name());

        let stored = Files::folder(&out);
        let stored = checkpoint::load(&stored, &Device::flex(), format).unwrap();
        let files = Files::folder(original());
        let made = checkpoint::load(&files, &Device::flex(), format).unwrap();
        for model in [&stored, &made] {
            assert!(matches!(weight_dtype(model), DType::QFloat(_)));
        }
        for tokens in [1, 39] {
            let wanted = outputs(&whole, &pixels, tokens);
            let found = outputs(&made, &pixels, tokens);
            for ((found, wanted), most) in found.iter().zip(&wanted).zip([most, most, 1e-2, most]) {
                let error = crate::fixture::relative_error(found, wanted);
                assert!(error < most, "{format:?} {tokens}: {error}");
            }
            assert!(outputs(&stored, &pixels, tokens) == found);
        }

        let info = checkpoint::info(&Files::folder(&out)).unwrap();
        assert_eq!(
            info.parameters,
            checkpoint::info(&files).unwrap().parameters
        );
        assert!(info.parts[0].dtypes.contains_key(&format!("{format:?}")));

        let again = target.path().join(format!("{}-again", format.name()));
        checkpoint::convert(&again, &Files::folder(&out), format).unwrap();
        let back = target.path().join(format!("{}-back", format.name()));
        checkpoint::convert(&back, &Files::folder(&out), Format::F32).unwrap();
        let twice = target.path().join(format!("{}-twice", format.name()));
        checkpoint::convert(&twice, &Files::folder(&back), format).unwrap();
        let file = |root: &Path| fs::read(root.join("llm/model.safetensors")).unwrap();
        assert!(file(&out) == file(&again));
        assert!(
            file(&out) == file(&twice),
            "rounding what is rounded changes it"
        );
        let config = read_json(&back.join("llm/config.json"));
        assert!(config.get("quantization_config").is_none());
    }
}

/// A tensor of bytes is blocks only where a linear layer's weight of that size is expected.
#[test]
fn bytes_that_are_no_blocks() {
    let folder = copy();
    let path = folder.path().join("llm/model.safetensors");
    let mut tensors = read_tensors(&path);
    let table = |tensor: &&mut Stored| tensor.0 == "model.embed_tokens.weight";
    let table = tensors.iter_mut().find(table).unwrap();
    table.1 = Dtype::U8;
    table.3.truncate(table.2.iter().product());
    write_tensors(&path, &tensors);
    assert_refused(folder.path(), &["model.embed_tokens.weight", "U8"]);
}

#[test]
fn too_large_for_half_precision() {
    let folder = copy();
    let path = folder.path().join("mm_projector/model.safetensors");
    let mut tensors = read_tensors(&path);
    tensors[0].3[..4].copy_from_slice(&1e6f32.to_le_bytes());
    write_tensors(&path, &tensors);
    let loaded = load(folder.path()).unwrap();
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("out");
    let error = save(&out, &loaded, Format::F16).unwrap_err().to_string();
    assert!(
        error.contains(&tensors[0].0) && error.contains("bf16"),
        "{error}"
    );
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn in_memory() {
    let mut files = Vec::new();
    for part in ["", "llm", "mm_projector", "vision_tower", "siglip"] {
        for entry in fs::read_dir(original().join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(original()).unwrap();
                let name = name.to_str().unwrap().replace('\\', "/");
                files.push((name, fs::read(&path).unwrap().into()));
            }
        }
    }
    let files = Files::memory("fixture", files);
    let loaded = checkpoint::load(&files, &Device::flex(), Format::F32).unwrap();
    assert_loads_the_same(&loaded);
    let missing = Files::memory("fixture", []);
    let error = checkpoint::load(&missing, &Device::flex(), Format::F32).unwrap_err();
    assert!(error.to_string().contains("fixture"), "{error}");
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

#[test]
fn sharded() {
    let folder = copy();
    for part in PARTS {
        let write = |path: &Path, tensors: &Tensors| write_tensors(path, tensors);
        shard(&folder.path().join(part), "model.safetensors", write);
    }
    assert_loads_the_same(&load(folder.path()).unwrap());
}

fn write_torch(path: &Path, tensors: &Tensors, aliases: &[(String, usize)]) {
    let entry = |key, index: usize| Entry {
        key,
        class: "FloatStorage",
        shape: &tensors[index].2,
        storage: index,
    };
    let mut entries: Vec<Entry> = (0..tensors.len())
        .map(|i| entry(&tensors[i].0, i))
        .collect();
    entries.extend(aliases.iter().map(|(key, index)| entry(key, *index)));
    let storages: Vec<Vec<u8>> = tensors.iter().map(|tensor| tensor.3.clone()).collect();
    fs::write(path, state_dict(&entries, &storages)).unwrap();
}

#[test]
fn pytorch() {
    let folder = copy();
    for (part, name) in [
        ("llm", "pytorch_model.bin"),
        ("mm_projector", "pytorch_model.pt"),
    ] {
        let path = folder.path().join(part).join("model.safetensors");
        write_torch(&path.with_file_name(name), &read_tensors(&path), &[]);
        fs::remove_file(path).unwrap();
    }
    // torch keeps every name of a shared tensor, and older libraries stored derived buffers.
    let path = folder.path().join("vision_tower/model.safetensors");
    let tensors = read_tensors(&path);
    let mut aliases = Vec::new();
    for (index, (key, ..)) in tensors.iter().enumerate() {
        if let Some(name) = key.strip_prefix("rqvaesiglip.quantizer.codebooks.0.") {
            for depth in 1..4 {
                let alias = format!("rqvaesiglip.quantizer.codebooks.{depth}.{name}");
                aliases.push((alias, index));
            }
        }
        if let Some(name) = key.strip_prefix("rqvaesiglip.logit_") {
            aliases.push((format!("rqvaesiglip.siglip_model.logit_{name}"), index));
        }
    }
    let buffer = "rqvaesiglip.siglip_model.text_model.embeddings.position_ids";
    aliases.push((buffer.into(), 0));
    write_torch(
        &path.with_file_name("pytorch_model.bin"),
        &tensors,
        &aliases,
    );
    fs::remove_file(path).unwrap();
    assert_loads_the_same(&load(folder.path()).unwrap());
}

#[test]
fn pytorch_shards() {
    let folder = copy();
    let write = |path: &Path, tensors: &Tensors| write_torch(path, tensors, &[]);
    shard(&folder.path().join("llm"), "pytorch_model.bin", write);
    assert_loads_the_same(&load(folder.path()).unwrap());
}

#[test]
fn pickles_do_not_run() {
    let folder = copy();
    let llm = folder.path().join("llm");
    fs::remove_file(llm.join("model.safetensors")).unwrap();
    let witness = folder.path().join("ran");
    let call = format!(
        "\u{80}\u{2}cos\nsystem\n(X\0\0\0\0touch {}tR.",
        witness.display()
    );
    let mut pickle: Vec<u8> = call.chars().map(|c| c as u8).collect();
    let length = "touch ".len() + witness.to_str().unwrap().len();
    pickle[14..18].copy_from_slice(&(length as u32).to_le_bytes());
    fs::write(llm.join("pytorch_model.bin"), archive(&pickle, &[])).unwrap();
    assert_refused(folder.path(), &["pytorch_model.bin"]);
    assert!(!witness.exists());
    fs::write(llm.join("pytorch_model.bin"), b"PK\x03\x04 and no archive").unwrap();
    assert_refused(folder.path(), &["pytorch_model.bin"]);
}

#[test]
fn wrong_tensors_are_named() {
    const KEY: &str = "model.layers.0.mlp.up_proj.weight";
    type Change = fn(&mut Tensors);
    let changes: [(Change, &[&str]); 4] = [
        (|t| t.retain(|t| t.0 != KEY), &[KEY, "missing"]),
        (
            |t| t.push(("model.extra".into(), Dtype::F32, vec![1], vec![0; 4])),
            &["model.extra", "not part of"],
        ),
        (
            |t| {
                let up = t.iter_mut().find(|t| t.0 == KEY).unwrap();
                up.2.reverse();
            },
            &[KEY, "[96, 192]", "[192, 96]"],
        ),
        (
            |t| t.iter_mut().find(|t| t.0 == KEY).unwrap().1 = Dtype::I32,
            &[KEY, "I32", "not floating point"],
        ),
    ];
    for (change, words) in changes {
        let folder = copy();
        let path = folder.path().join("llm/model.safetensors");
        let mut tensors = read_tensors(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors);
        assert_refused(folder.path(), words);
        assert_refused(folder.path(), &["llm/model.safetensors"]);
    }
}

#[test]
fn shared_codebook_that_is_not_shared() {
    let folder = copy();
    let path = folder.path().join("vision_tower/model.safetensors");
    let mut tensors = read_tensors(&path);
    let key = "rqvaesiglip.quantizer.codebooks.0.weight";
    let mut second = tensors.iter().find(|t| t.0 == key).unwrap().clone();
    second.0 = "rqvaesiglip.quantizer.codebooks.1.weight".into();
    tensors.push(second);
    write_tensors(&path, &tensors);
    load(folder.path()).unwrap();
    tensors.last_mut().unwrap().3[0] ^= 1;
    write_tensors(&path, &tensors);
    assert_refused(folder.path(), &["codebooks.1.weight", "shared_codebook"]);
}

#[test]
fn damaged_safetensors() {
    let path = |folder: &TempDir| folder.path().join("llm/model.safetensors");
    let whole = fs::read(original().join("llm/model.safetensors")).unwrap();
    let header = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes
    };
    let lies = [
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        "[1, 2]",
        "not JSON",
    ];
    let mut cases = vec![
        (whole[..whole.len() - 10].to_vec(), "truncated"),
        (
            [&whole[..], &[0; 3]].concat(),
            "3 bytes after the last tensor",
        ),
        (whole[..100].to_vec(), "not a safetensors file"),
        (Vec::new(), "not a safetensors file"),
        (vec![0xff; 64], "not a safetensors file"),
    ];
    cases.extend(lies.map(|lie| (header(lie), "llm/model.safetensors")));
    for (bytes, word) in cases {
        let folder = copy();
        fs::write(path(&folder), bytes).unwrap();
        assert_refused(folder.path(), &["llm/model.safetensors", word]);
    }
    let folder = copy();
    fs::write(path(&folder), &whole[..whole.len() - 10]).unwrap();
    assert_refused(folder.path(), &["`model.norm.weight` is truncated"]);
    fs::remove_file(path(&folder)).unwrap();
    assert_refused(folder.path(), &["llm", "no weights here"]);
}

#[test]
fn shards_stay_in_the_folder() {
    let folder = copy();
    let llm = folder.path().join("llm");
    let write = |path: &Path, tensors: &Tensors| write_tensors(path, tensors);
    shard(&llm, "model.safetensors", write);
    let index = llm.join("model.safetensors.index.json");
    let outside = folder.path().join("mm_projector/model.safetensors");
    for shard in [
        "../mm_projector/model.safetensors",
        outside.to_str().unwrap(),
        "",
        "..",
    ] {
        edit_json(&index, |index| {
            index["weight_map"]["model.norm.weight"] = json!(shard)
        });
        assert_refused(folder.path(), &["index.json", "not a file of this folder"]);
    }
    let second = "model-00002-of-00002.safetensors";
    edit_json(&index, |index| {
        index["weight_map"]["model.norm.weight"] = json!(second)
    });
    edit_json(&index, |index| {
        index["weight_map"]["model.no.weight"] = json!(second)
    });
    assert_refused(folder.path(), &["model.no.weight", second, "index"]);
    fs::remove_file(llm.join(second)).unwrap();
    assert_refused(folder.path(), &[second]);
    fs::write(&index, "{}").unwrap();
    assert_refused(folder.path(), &["index.json", "weight_map"]);
}

#[test]
fn wrong_configurations() {
    type Case = (&'static str, fn(&mut Value), &'static [&'static str]);
    let cases: [Case; 9] = [
        (
            "llm/config.json",
            |c| drop(c.as_object_mut().unwrap().remove("hidden_size")),
            &["llm/config.json", "hidden_size"],
        ),
        (
            "llm/config.json",
            |c| c["hidden_act"] = json!("relu"),
            &["hidden_act", "relu"],
        ),
        (
            "llm/config.json",
            |c| c["num_hidden_layers"] = json!(1_000_000),
            &["num_hidden_layers"],
        ),
        (
            "llm/config.json",
            |c| c["vocab_size"] = json!(1u64 << 40),
            &["vocab_size"],
        ),
        (
            "llm/config.json",
            |c| c["intermediate_size"] = json!(100),
            &["mlp.", "shape", "100"],
        ),
        (
            "mm_projector/config.json",
            |c| c["mm_projector_type"] = json!("resampler"),
            &["resampler"],
        ),
        (
            "vision_tower/config.json",
            |c| c["rqvaesiglip"]["code_shape"] = json!([8, 8, 1u64 << 50]),
            &["code_shape"],
        ),
        (
            "vision_tower/config.json",
            |c| c["rqvaesiglip"]["pretrained_model"] = json!("../siglip"),
            &["../siglip", "vision_tower/config.json"],
        ),
        (
            "vision_tower/config.json",
            |c| c["rqvaesiglip"]["pretrained_model"] = json!("/siglip"),
            &["/siglip"],
        ),
    ];
    for (name, edit, words) in cases {
        let folder = copy();
        edit_json(&folder.path().join(name), edit);
        assert_refused(folder.path(), words);
    }
    for name in [
        "config.json",
        "llm/config.json",
        "mm_projector/config.json",
        "vision_tower/config.json",
        "llm/tokenizer.model",
    ] {
        let folder = copy();
        fs::remove_file(folder.path().join(name)).unwrap();
        let file = name.rsplit('/').next().unwrap();
        assert_refused(folder.path(), &[file]);
        fs::write(folder.path().join(name), "{").unwrap();
        assert_refused(folder.path(), &[name]);
    }
}

#[test]
fn tower_alone() {
    let folder = copy();
    fs::remove_dir_all(folder.path().join("llm")).unwrap();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let load = |folder: &Path| {
        checkpoint::load_tower(&Files::folder(folder), &Device::flex(), Format::F32).unwrap()
    };
    let tower = load(folder.path());
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("out");
    let checkpoint::Tower {
        config,
        siglip,
        model,
        files,
    } = &tower;
    checkpoint::save_tower(&out, config, siglip, model, files, Format::F32).unwrap();
    let again = load(&out);
    assert_eq!((again.config, again.siglip), (tower.config, tower.siglip));
    let name = "vision_tower/model.safetensors";
    let mut tensors = read_tensors(&original().join(name));
    tensors.retain(|t| t.0.starts_with("rqvaesiglip."));
    let mut saved = read_tensors(&out.join(name));
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    saved.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(saved == tensors);
    assert!(
        read_json(&out.join("vision_tower/config.json"))
            .get("rqtransformer")
            .is_none()
    );
    let error = again_without_tokenizer(&out);
    assert!(error.contains("spiece.model"), "{error}");
}

fn again_without_tokenizer(folder: &Path) -> String {
    let tower =
        checkpoint::load_tower(&Files::folder(folder), &Device::flex(), Format::F32).unwrap();
    tower.text_tokenizer().unwrap_err().to_string()
}

#[test]
fn info() {
    let info = checkpoint::info(&Files::folder(original())).unwrap();
    let stored: usize = PARTS
        .iter()
        .flat_map(|part| read_tensors(&original().join(part).join("model.safetensors")))
        .map(|tensor| tensor.2.iter().product::<usize>())
        .sum();
    assert_eq!(info.parameters, stored as u64);
    assert_eq!(
        (info.bytes, info.memory.f32),
        (4 * info.parameters, 4 * info.parameters)
    );
    let memory = &info.memory;
    assert!(memory.f32 > memory.bf16 && memory.bf16 > memory.q8_0 && memory.q8_0 > memory.q4_0);
    assert_eq!(info.parts.len(), 7);
    assert_eq!(info.parts[0].dtypes["F32"], info.parts[0].parameters);
    assert_eq!(info.visual.codes, [8, 8, 4]);
    assert_eq!(info.language.unwrap().vocabulary, 604);
}

#[test]
fn no_such_folder() {
    let source = Source::parse("no/such/folder").unwrap();
    let error = source.files(|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}
