//! What is read is written back byte for byte, of the whole model and of a tower alone.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::Value;
use vila_u::checkpoint::{self, Checkpoint, Files, WeightDtype};

use super::{
    PARTS, assert_loads_the_same, assert_same_weights, copy, load, original, read_json,
    read_tensors, save, write_tensors,
};

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
    save(&out, &loaded, WeightDtype::F32).unwrap();
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
    let error = save(&out, &loaded, WeightDtype::F32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
    load(&out).unwrap();
}

#[test]
fn saved_in_half_precision() {
    let loaded = load(&original()).unwrap();
    let target = tempfile::tempdir().unwrap();
    for (format, stored) in [
        (WeightDtype::F16, Dtype::F16),
        (WeightDtype::BF16, Dtype::BF16),
    ] {
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
        // A conversion that never loads it loses nothing.
        let converted = target.path().join(format!("{stored:?}-converted"));
        checkpoint::convert(&converted, &Files::folder(&out), format, &|_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_same_weights(&out, &converted);
        // Nor does what is loaded as it is stored, where the CPU takes that.
        let half = checkpoint::load(&Files::folder(&out), &Device::flex(), format);
        assert_eq!(half.is_ok(), format == WeightDtype::BF16);
        if let Ok(half) = half {
            let second = target.path().join(format!("{stored:?}-again"));
            save(&second, &half, format).unwrap();
            assert_same_weights(&out, &second);
        }
    }
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
    let error = save(&out, &loaded, WeightDtype::F16)
        .unwrap_err()
        .to_string();
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
    let loaded = checkpoint::load(&files, &Device::flex(), WeightDtype::F32).unwrap();
    assert_loads_the_same(&loaded);
    let missing = Files::memory("fixture", []);
    let error = checkpoint::load(&missing, &Device::flex(), WeightDtype::F32).unwrap_err();
    assert!(error.to_string().contains("fixture"), "{error}");
}

#[test]
fn tower_alone() {
    let folder = copy();
    fs::remove_dir_all(folder.path().join("llm")).unwrap();
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let load = |folder: &Path| {
        checkpoint::load_tower(&Files::folder(folder), &Device::flex(), WeightDtype::F32).unwrap()
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
    checkpoint::save_tower(&out, config, siglip, model, files, WeightDtype::F32).unwrap();
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
        checkpoint::load_tower(&Files::folder(folder), &Device::flex(), WeightDtype::F32).unwrap();
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
