//! Base language models as Hugging Face has them: what `transformers` computes with them, and how it splits text
//! into tokens (`tools/record_base.py` recorded both).

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Int, Tensor, TensorData};
use proptest::prelude::*;
use serde::Deserialize;
use vila_u::{
    checkpoint::{BaseModel, Files, WeightDtype, load_base},
    generation::{
        batch::Prompt,
        sampling::Sampling,
        text::{self, TextOptions},
    },
    text::Tokenizer,
};

use crate::fixture::{Recorded, relative_error};

#[derive(Deserialize)]
struct Texts {
    prompt: String,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<i64>,
    decoded: String,
    /// Without the last token, which may end a character.
    decoded_but_last: String,
}

fn folder(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/base");
    golden.join(name)
}

/// Compares everything recorded in a folder; the relative error of its logits.
fn compare(folder: &Path) -> f64 {
    let BaseModel {
        model: llm,
        tokenizer,
        ..
    } = load_base(&Files::folder(folder), &Device::flex(), WeightDtype::F32).unwrap();
    let prompt = compare_tokenization(folder, &tokenizer);

    let recorded = Recorded::read(&folder.join("recorded.safetensors"));
    let ids = recorded.ints("ids");
    let shape = [1, ids.len()];
    let ids = Tensor::from_data(TensorData::new(ids, shape), &Device::flex());
    let embeds = llm.embed(ids);
    let [_, length, _] = embeds.dims();
    let positions = Tensor::<1, Int>::arange(0..length as i64, &Device::flex()).unsqueeze();
    let logits = llm.logits(llm.forward(embeds, positions, None, None));
    let logits = logits.into_data().try_to_vec::<f32>().unwrap();

    let prompt = tokenizer.encode(&prompt);
    assert_eq!(prompt, recorded.ints("prompt"));
    let greedy = recorded.ints("greedy");
    let options = TextOptions {
        sampling: Sampling::GREEDY,
        seed: 0,
        max_tokens: greedy.len(),
        stop: Vec::new(),
    };
    let prompt = Prompt::from_ids(&llm, &[prompt]).unwrap();
    let rows = text::generate(
        &llm,
        prompt,
        &options,
        &mut |_, _| ControlFlow::Continue(()),
    );
    assert_eq!(rows.unwrap(), [greedy]);
    relative_error(&logits, &recorded.floats("logits"))
}

/// The prompt that is continued.
fn compare_tokenization(folder: &Path, tokenizer: &Tokenizer) -> String {
    let json = std::fs::read(folder.join("recorded.json")).unwrap();
    let Texts { prompt, texts } = serde_json::from_slice(&json).unwrap();
    for case in texts {
        let (text, ids) = (case.text, case.ids);
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), case.decoded, "{text:?}");
        let shorter = &ids[..ids.len().saturating_sub(1)];
        assert_eq!(tokenizer.decode(shorter), case.decoded_but_last, "{text:?}");
    }
    prompt
}

/// Grouped heads of a width of their own, one table for words in and out, Llama 3's rotation, a token before
/// every text, padding in the vocabulary.
#[test]
fn llama3() {
    let error = compare(&folder("llama3"));
    assert!(error <= 1e-5, "relative error {error:.2e}");
    let config = std::fs::read_to_string(folder("llama3").join("config.json")).unwrap();
    assert!(config.contains("\"tie_word_embeddings\": true") && config.contains("llama3"));
}

#[test]
fn smollm2_tokenizer() {
    let folder = folder("smollm2");
    compare_tokenization(&folder, &Tokenizer::from_dir(&folder).unwrap());
}

/// A model of 270 MB: see `docs/bases.md`.
#[test]
#[ignore = "VILA_U_BASE is to be a folder that tools/record_base.py has recorded"]
fn in_a_folder() {
    let folder = std::env::var_os("VILA_U_BASE").unwrap();
    let error = compare(Path::new(&folder));
    println!("relative error of the logits: {error:.2e}");
    assert!(error <= 1e-4);
}

fn tokenizers() -> [Tokenizer; 2] {
    ["llama3", "smollm2"].map(|name| Tokenizer::from_dir(&folder(name)).unwrap())
}

/// The conversation's `</s>` is the token that ends a text, whatever the vocabulary calls it.
#[test]
fn an_answer_ends_as_the_base_ends_a_text() {
    for (tokenizer, end, begin) in [
        (&tokenizers()[0], "<|eot|>", 1),
        (&tokenizers()[1], "<|im_end|>", 0),
    ] {
        assert_eq!(
            tokenizer.added_token_id(end),
            Some(tokenizer.eos_token_id())
        );
        let segments = ["USER: <image>\nHi ASSISTANT:", " Hé</s>", "USER:"];
        let ids = tokenizer.encode_segments(&segments);
        assert_eq!(ids[1].last(), Some(&tokenizer.eos_token_id()));
        assert_eq!(tokenizer.decode(&ids[1]), " Hé");
        assert_eq!(ids.concat(), tokenizer.encode_prompt(&segments.concat()));
        assert_eq!(tokenizer.encode("").len(), begin);
    }
}

/// Nothing of a character is shown before its last byte is there.
#[test]
fn characters_appear_whole() {
    let text = "é 🙂👩‍🚀";
    for tokenizer in tokenizers() {
        let mut stream = tokenizer.stream();
        let ids = tokenizer.encode(text);
        let shown: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
        assert!(shown.iter().any(String::is_empty));
        assert!(!shown.concat().contains(char::REPLACEMENT_CHARACTER));
        assert_eq!(shown.concat() + &stream.finish(), text);
    }
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let json = std::fs::read_to_string(folder("llama3").join("tokenizer.json")).unwrap();
    let config = std::fs::read(folder("llama3").join("tokenizer_config.json")).unwrap();
    let refused = |json: &str, config: Option<&[u8]>| {
        let reason = Tokenizer::from_json(json.as_bytes(), config).unwrap_err();
        let reason = reason.to_string();
        assert!(!reason.contains('\n'), "{reason}");
        reason
    };
    assert!(refused(&json, None).contains("eos_token"));
    assert!(refused(&json, Some(br#"{"eos_token": "<none>"}"#)).contains("<none>"));
    // A merge of pieces that make none, ids that are too large, and a file cut short.
    let merges = json.replacen("\"merges\":[", "\"merges\":[[\"zzz\", \"z\"],", 1);
    assert!(refused(&merges, Some(&config)).contains("tokenizer.json"));
    let large = json.replacen("\"!\":0", "\"!\":4000000000", 1);
    assert!(refused(&large, Some(&config)).contains("4000000000"));
    let twice = json.replacen("\"#\":2,", "\"#\":0,", 1);
    assert!(refused(&twice, Some(&config)).contains("two tokens have the id 0"));
    assert!(refused(&json[..json.len() / 2], Some(&config)).contains("tokenizer.json"));
    let elsewhere = json.replacen("\"id\":318", "\"id\":400", 1);
    assert!(refused(&elsewhere, Some(&config)).contains("400"));
}

proptest! {
    #[test]
    fn text_survives_encoding(text in any::<String>()) {
        for tokenizer in tokenizers() {
            prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text)), &text);
        }
    }

    #[test]
    fn streaming_is_decoding(ids in prop::collection::vec(-300_i64..400, 0..40)) {
        for tokenizer in tokenizers() {
            let mut stream = tokenizer.stream();
            let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
            text += &stream.finish();
            prop_assert_eq!(text, tokenizer.decode(&ids));
        }
    }
}
