//! Every way in which files hold weights: shards, and PyTorch's pickles, which never run.

use std::{fs, path::Path};

use super::{
    PARTS, Tensors, assert_loads_the_same, assert_refused, copy, load, read_tensors, shard,
    write_tensors,
};
use crate::torch_file::{Entry, archive, state_dict};

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
