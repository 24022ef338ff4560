//! Damaged or hostile files are refused with one error that names the file and what is wrong in it.

use std::{fs, path::Path};

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use vila_u::checkpoint::Source;

use super::{
    Tensors, assert_refused, copy, edit_json, load, original, read_tensors, shard, write_tensors,
};

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
        (Vec::new(), "the file is empty"),
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
fn no_such_folder() {
    let source = Source::parse("no/such/folder").unwrap();
    let error = source.files(|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}
