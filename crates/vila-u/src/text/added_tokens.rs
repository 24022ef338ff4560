//! How a base model's tokenizer gets the tokens that mark pictures and videos: in files beside LLaMA's
//! `tokenizer.model`, as the released checkpoints have them, or in `tokenizer.json` itself.

use serde_json::{Map, Value, json};

use super::conversation::{IMAGE_END, IMAGE_START, VIDEO_END, VIDEO_START};
use crate::{Error, Result};

/// What a conversation adds to the vocabulary, in the order of the released checkpoints.
pub(crate) const ADDED_TOKENS: [&str; 4] = [IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END];

/// Names and contents of the files beside a `tokenizer.model` of `ids` pieces. `longest`: text that the model
/// is made for, in tokens.
pub(crate) fn files_beside_model(ids: usize, longest: usize) -> [(&'static str, Vec<u8>); 3] {
    [
        ("added_tokens.json", pretty(added_tokens(ids))),
        ("special_tokens_map.json", pretty(special_tokens_map())),
        (
            "tokenizer_config.json",
            pretty(tokenizer_config(ids, longest)),
        ),
    ]
}

/// A `tokenizer.json` and the `tokenizer_config.json` beside it with `tokens` added, whose ids are `ids` and
/// those after it. Errors say why one of them is no such file.
pub(crate) fn add_to_json(
    json: &[u8],
    config: &[u8],
    tokens: &[&str],
    ids: usize,
    longest: usize,
) -> Result<[(&'static str, Vec<u8>); 2]> {
    let parsed = |name: &str, bytes| {
        let object = serde_json::from_slice::<Map<String, Value>>(bytes);
        object.map_err(|error| Error::failed(format!("{name}: {error}")))
    };
    let mut tokenizer = parsed("tokenizer.json", json)?;
    let mut config = parsed("tokenizer_config.json", config)?;
    let added = tokenizer.entry("added_tokens").or_insert(json!([]));
    let special = config.entry("additional_special_tokens");
    let (Some(added), Some(special)) = (
        added.as_array_mut(),
        special.or_insert(json!([])).as_array_mut(),
    ) else {
        return Err(Error::failed(
            "added_tokens and additional_special_tokens are not lists",
        ));
    };
    let mut entries = Map::new();
    for (id, token) in (ids..).zip(tokens) {
        let mut entry = exact(token, Map::from_iter([("special".to_owned(), true.into())]));
        entries.insert(id.to_string(), Value::Object(entry.clone()));
        entry.insert("id".into(), id.into());
        added.push(Value::Object(entry));
        special.push((*token).into());
    }
    if let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") {
        decoder.append(&mut entries);
    }
    config.insert("model_max_length".into(), longest.into());
    let tokenizer = format!("{}\n", Value::Object(tokenizer)).into_bytes();
    Ok([
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", pretty(Value::Object(config))),
    ])
}

fn pretty(value: Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn added_tokens(ids: usize) -> Value {
    let entries = ADDED_TOKENS
        .iter()
        .zip(ids..)
        .map(|(token, id)| (token.to_string(), id.into()));
    Value::Object(entries.collect())
}

/// How `transformers` describes a token that is matched exactly.
fn exact(token: &str, mut extra: Map<String, Value>) -> Map<String, Value> {
    let mut entry = Map::from_iter([("content".to_owned(), token.into())]);
    for flag in ["lstrip", "normalized", "rstrip", "single_word"] {
        entry.insert(flag.into(), false.into());
    }
    entry.append(&mut extra);
    entry
}

fn special_tokens_map() -> Value {
    let exact = |token| exact(token, Map::new());
    json!({
        "additional_special_tokens": ADDED_TOKENS.map(exact),
        "bos_token": exact("<s>"),
        "eos_token": exact("</s>"),
        "pad_token": "<unk>",
        "unk_token": exact("<unk>"),
    })
}

fn tokenizer_config(ids: usize, longest: usize) -> Value {
    let special = Map::from_iter([("special".to_owned(), true.into())]);
    let first = ["<unk>", "<s>", "</s>"].into_iter().zip(0..);
    let decoder: Map<String, Value> = first
        .chain(ADDED_TOKENS.into_iter().zip(ids..))
        .map(|(token, id)| (id.to_string(), exact(token, special.clone()).into()))
        .collect();
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "add_prefix_space": true,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ADDED_TOKENS,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "</s>",
        "legacy": false,
        "model_max_length": longest,
        "pad_token": "<unk>",
        "padding_side": "right",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": false,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": false,
    })
}
