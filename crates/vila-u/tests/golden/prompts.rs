//! Prompts and token ids, all exact.

use std::fs;

use proptest::prelude::*;
use serde::Deserialize;
use vila_u::text::{
    Tokenizer,
    conversation::{self, Reply, Turn},
};

use crate::fixture;

#[derive(Deserialize)]
struct Recorded {
    vocab_size_with_added: usize,
    conversations: Vec<Conversation>,
    tokenizer_image_token: Vec<Prompt>,
    tokenizer_plain: Vec<Plain>,
    training: Vec<Training>,
}

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Vec<Turn>,
    args: Arguments,
    prompt: String,
    input_ids: Vec<i64>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Arguments {
    add_generation_prompt: bool,
    image_generation: bool,
    video_generation: bool,
    no_system_prompt: bool,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    input_ids: Vec<i64>,
}

#[derive(Deserialize)]
struct Plain {
    text: String,
    tokenizer_input_ids: Vec<i64>,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct Training {
    name: String,
    messages: Vec<Turn>,
    preprocess_multimodal: bool,
    no_system_prompt: bool,
    messages_after_preprocess_multimodal: Vec<Turn>,
    input_ids: Vec<i64>,
    labels: Vec<i64>,
}

fn recorded() -> Recorded {
    let json = fs::read(fixture::folder().join("prompts.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&fixture::folder().join("checkpoint/llm")).unwrap()
}

#[test]
fn conversations() {
    let (recorded, tokenizer) = (recorded(), tokenizer());
    assert_eq!(recorded.conversations.len(), 20);
    for case in recorded.conversations {
        let args = case.args;
        let reply = match (args.image_generation, args.video_generation) {
            (true, _) => Reply::Image,
            (_, true) => Reply::Video,
            _ => Reply::Text,
        };
        let system = !args.no_system_prompt;
        let prompt = if args.add_generation_prompt {
            conversation::generation_prompt(&case.messages, reply, system)
        } else {
            conversation::prompt(&case.messages, system)
        }
        .unwrap();
        assert_eq!(prompt, case.prompt, "{}", case.name);
        assert_eq!(
            tokenizer.encode_prompt(&prompt),
            case.input_ids,
            "{}",
            case.name
        );
        if case.name.ends_with("uncond") {
            assert_eq!(
                conversation::unconditional_prompt(reply, system).unwrap(),
                prompt
            );
        }
    }
}

#[test]
fn prompts_with_images() {
    let tokenizer = tokenizer();
    for Prompt { text, input_ids } in recorded().tokenizer_image_token {
        assert_eq!(tokenizer.encode_prompt(&text), input_ids, "{text:?}");
    }
}

#[test]
fn plain_text_there_and_back() {
    let recorded = recorded();
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size(), recorded.vocab_size_with_added);
    for case in recorded.tokenizer_plain {
        let ids = tokenizer.encode(&case.text);
        assert_eq!(ids, case.tokenizer_input_ids, "{:?}", case.text);
        assert_eq!(tokenizer.decode(&ids), case.decoded_skip_special);
    }
}

/// The segments of a training conversation: joined, its ids; the answers, its unmasked labels.
#[test]
fn training_conversations() {
    let tokenizer = tokenizer();
    for case in recorded().training {
        let turns = if case.preprocess_multimodal {
            conversation::wrap_images(&case.messages)
        } else {
            case.messages
        };
        assert_eq!(
            turns, case.messages_after_preprocess_multimodal,
            "{}",
            case.name
        );
        let segments = conversation::segments(&turns, !case.no_system_prompt).unwrap();
        let texts: Vec<&str> = segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect();
        let ids = tokenizer.encode_segments(&texts);
        assert_eq!(ids.concat(), case.input_ids, "{}", case.name);
        let labels: Vec<i64> = (segments.iter().zip(ids))
            .flat_map(|(segment, ids)| {
                if segment.answer {
                    ids
                } else {
                    vec![-100; ids.len()]
                }
            })
            .collect();
        assert_eq!(labels, case.labels, "{}", case.name);
    }
}

const SPECIAL_TOKENS: [&str; 7] = [
    "<unk>",
    "<s>",
    "</s>",
    "<im_start>",
    "<im_end>",
    "<vi_start>",
    "<vi_end>",
];

/// Texts of every kind of character, with markup, special tokens and spaces.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z ]{0,12}",
        any::<String>(),
        prop::sample::select(vec!["<image>", "  ", "\n", "▁", "USER:"]).prop_map(str::to_string),
        prop::sample::select(SPECIAL_TOKENS.to_vec()).prop_map(str::to_string),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn text_survives_encoding(start in "[^<]", rest in texts()) {
        let tokenizer = tokenizer();
        let text = start + &rest;
        let mut expected = text.replace('▁', " ");
        for special in SPECIAL_TOKENS {
            expected = expected.replace(special, "");
        }
        // Dropping a special token must not have made a new one.
        prop_assume!(!SPECIAL_TOKENS.iter().any(|special| expected.contains(special)));
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), expected);
    }

    #[test]
    fn segments_join_to_the_prompt(parts in prop::collection::vec(texts(), 0..5)) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_segments(&parts);
        prop_assert_eq!(ids.len(), parts.len());
        if !parts.is_empty() {
            prop_assert_eq!(ids.concat(), tokenizer.encode_prompt(&parts.concat()));
        }
    }

    #[test]
    fn streaming_is_decoding(ids in prop::collection::vec(-300_i64..700, 0..40)) {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text += &stream.finish();
        prop_assert_eq!(text, tokenizer.decode(&ids));
    }
}
