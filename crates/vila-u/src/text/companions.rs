//! The files beside LLaMA's `tokenizer.model` that add the words for pictures and videos, as the released
//! checkpoints have them.

use serde_json::{Map, Value, json};

use super::conversation::{IMAGE_END, IMAGE_START, VIDEO_END, VIDEO_START};

/// What a conversation adds to the vocabulary, in the order of the released checkpoints.
const ADDED: [&str; 4] = [IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END];

/// Names and contents, for a vocabulary of `ids` pieces. `longest`: text that the model is made for, in
/// tokens.
pub(crate) fn companions(ids: usize, longest: usize) -> [(&'static str, Vec<u8>); 3] {
    let pretty = |value: Value| format!("{value:#}\n").into_bytes();
    [
        ("added_tokens.json", pretty(added_tokens(ids))),
        ("special_tokens_map.json", pretty(special_tokens_map())),
        (
            "tokenizer_config.json",
            pretty(tokenizer_config(ids, longest)),
        ),
    ]
}

fn added_tokens(ids: usize) -> Value {
    let entries = ADDED
        .iter()
        .zip(ids..)
        .map(|(token, id)| (token.to_string(), id.into()));
    Value::Object(entries.collect())
}

/// How `transformers` describes a token that is matched exactly.
fn exact(token: &str, mut extra: Map<String, Value>) -> Value {
    let mut entry = Map::from_iter([("content".to_owned(), token.into())]);
    for flag in ["lstrip", "normalized", "rstrip", "single_word"] {
        entry.insert(flag.into(), false.into());
    }
    entry.append(&mut extra);
    Value::Object(entry)
}

fn special_tokens_map() -> Value {
    let exact = |token| exact(token, Map::new());
    json!({
        "additional_special_tokens": ADDED.map(exact),
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
        .chain(ADDED.into_iter().zip(ids..))
        .map(|(token, id)| (id.to_string(), exact(token, special.clone())))
        .collect();
    json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "add_prefix_space": true,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ADDED,
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
