//! Trains the nano model's two vocabularies on what the nano world says.
//!
//! Byte-pair encoding (Sennrich et al., arXiv 1508.07909) in SentencePiece's file format: starting
//! from characters, the most frequent pair of neighbouring pieces becomes a piece, until every word
//! of the nano world is one. Any other text still has its letters, and in LLaMA's style its bytes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use prost::Message;
use sentencepiece_model::{
    ModelProto, ModelType, NormalizerSpec, SentencePiece, TrainerSpec, Type,
};

use super::{Comparison, Page, Question, Scene, Split, Video, riddle};
use crate::{
    Error, Result,
    data::record::{DESCRIBE, DESCRIBE_VIDEO},
    text::{
        conversation::{self, Turn},
        files_beside_model,
    },
};

/// Enough scenes to meet every object in every form, hence every word.
const SCENES: u64 = 20_000;
/// The same of everything else, whose further words are few.
const OTHERS: u64 = 2_000;

/// Longest text, in tokens, that the nano model is made for.
const MODEL_MAX_LENGTH: usize = 2048;

/// Writes `llm/tokenizer.model` with the three files beside it, and `siglip/spiece.model`, under the
/// folder of a model.
pub fn write_tokenizers(model: &Path) -> Result<()> {
    let (said, captions) = corpus()?;
    let llm = language_model(&merges(&words(&said)));
    let ids = llm.pieces.len();
    let beside = files_beside_model(ids, MODEL_MAX_LENGTH)
        .map(|(name, content)| (format!("llm/{name}"), content));
    let files = [
        ("llm/tokenizer.model".to_string(), llm.encode_to_vec()),
        (
            "siglip/spiece.model".to_string(),
            text_encoder(&merges(&words(&captions))).encode_to_vec(),
        ),
    ];
    for (name, content) in files.into_iter().chain(beside) {
        let path = model.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        std::fs::write(&path, content).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// Everything the language model reads or says, and the captions alone (for the text encoder).
fn corpus() -> Result<(Vec<String>, Vec<String>)> {
    let (mut said, mut captions) = (Vec::new(), Vec::new());
    let answered = |asked: Question| {
        let turns = [Turn::human(asked.question), Turn::assistant(asked.answer)];
        conversation::prompt(&turns, true)
    };
    for index in 0..SCENES {
        let scene = Scene::sample(Split::Train, 0, index);
        captions.push(scene.caption());
        for asked in scene.questions() {
            said.push(answered(asked)?);
        }
    }
    said.extend(captions.iter().cloned());
    for describe in [DESCRIBE, DESCRIBE_VIDEO] {
        said.push(describe.to_owned());
    }
    for index in 0..OTHERS {
        let video = Video::sample(Split::Train, 0, index);
        said.push(video.caption());
        let comparison = Comparison::sample(Split::Train, 0, index);
        let asked = video.questions().into_iter().chain(comparison.questions());
        for asked in asked.chain([riddle(Split::Train, 0, index)]) {
            said.push(answered(asked)?);
        }
        let (_, reply) = Scene::sample_reply(Split::Train, 0, index);
        said.push(conversation::prompt(&reply, true)?);
        said.extend(Page::sample(Split::Train, 0, index).sentences());
    }
    // Where a picture stands is no word.
    let said = said.into_iter().map(|text| text.replace("<image>", " "));
    Ok((said.collect(), captions))
}

/// Words with their counts. A word carries the space before it as `▁`; punctuation stands alone.
///
/// `USER` is learnt without its space: after `</s>` it is then one piece and after a space two, as
/// in LLaMA's vocabulary. The released training code counts on that when it masks questions.
fn words(texts: &[String]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for text in texts {
        let text = text.replace("</s>", "");
        for spaced in text.split(' ').filter(|word| !word.is_empty()) {
            let mut word = String::from("▁");
            for c in spaced.chars() {
                if c.is_alphanumeric() {
                    word.push(c);
                } else if !word.is_empty() {
                    *counts.entry(std::mem::take(&mut word)).or_insert(0) += 1;
                }
            }
            if !word.is_empty() {
                *counts.entry(word).or_insert(0) += 1;
            }
        }
    }
    if let Some(count) = counts.remove("▁USER") {
        counts.insert("USER".into(), count);
    }
    counts
}

/// The pieces that merging makes, in order, until every word is one piece. Among equally frequent
/// pairs the alphabetically first wins, so that the same words always give the same pieces.
fn merges(words: &BTreeMap<String, u64>) -> Vec<String> {
    let mut split: Vec<(Vec<String>, u64)> = words
        .iter()
        .map(|(word, count)| (word.chars().map(String::from).collect(), *count))
        .collect();
    let (mut made, mut known) = (Vec::new(), HashSet::new());
    loop {
        let mut pairs: HashMap<(&str, &str), u64> = HashMap::new();
        for (pieces, count) in &split {
            for pair in pieces.windows(2) {
                *pairs.entry((&pair[0], &pair[1])).or_insert(0) += count;
            }
        }
        let best = pairs
            .into_iter()
            .max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)));
        let Some(((left, right), _)) = best else {
            return made;
        };
        let (left, right) = (left.to_owned(), right.to_owned());
        let merged = format!("{left}{right}");
        for (pieces, _) in &mut split {
            let mut at = 0;
            while at + 1 < pieces.len() {
                if pieces[at] == left && pieces[at + 1] == right {
                    pieces.splice(at..at + 2, [merged.clone()]);
                }
                at += 1;
            }
        }
        if known.insert(merged.clone()) {
            made.push(merged);
        }
    }
}

/// LLaMA's layout: `<unk>`, `<s>`, `</s>`, 256 bytes, merges, characters.
fn language_model(merges: &[String]) -> ModelProto {
    let mut pieces = vec![
        piece("<unk>", 0.0, Type::Unknown),
        piece("<s>", 0.0, Type::Control),
        piece("</s>", 0.0, Type::Control),
    ];
    pieces.extend((0..=255).map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, Type::Byte)));
    let characters = ('!'..='~').chain(['▁']).map(String::from);
    pieces.extend(scored(merges.iter().cloned().chain(characters)));
    let trainer = TrainerSpec {
        byte_fallback: Some(true),
        unk_id: Some(0),
        bos_id: Some(1),
        eos_id: Some(2),
        pad_id: Some(-1),
        ..TrainerSpec::default()
    };
    model(pieces, trainer, false)
}

/// The layout of the released text encoders: `<pad>`, `</s>` (which also ends and fills), `<unk>`,
/// merges, characters; lower case only.
fn text_encoder(merges: &[String]) -> ModelProto {
    let mut pieces = vec![
        piece("<pad>", 0.0, Type::Control),
        piece("</s>", 0.0, Type::Control),
        piece("<unk>", 0.0, Type::Unknown),
    ];
    let characters = ('!'..='~').filter(|c| !c.is_ascii_uppercase()).chain(['▁']);
    pieces.extend(scored(
        merges.iter().cloned().chain(characters.map(String::from)),
    ));
    let trainer = TrainerSpec {
        pad_id: Some(0),
        eos_id: Some(1),
        unk_id: Some(2),
        bos_id: Some(-1),
        ..TrainerSpec::default()
    };
    model(pieces, trainer, true)
}

/// Pieces in order of preference: the first merge made is the first one tried.
fn scored(texts: impl Iterator<Item = String>) -> impl Iterator<Item = SentencePiece> {
    texts
        .enumerate()
        .map(|(rank, text)| piece(&text, -(rank as f32), Type::Normal))
}

fn piece(text: &str, score: f32, kind: Type) -> SentencePiece {
    SentencePiece {
        piece: Some(text.to_owned()),
        score: Some(score),
        r#type: Some(kind.into()),
    }
}

fn model(pieces: Vec<SentencePiece>, trainer: TrainerSpec, single_spaces: bool) -> ModelProto {
    ModelProto {
        trainer_spec: Some(TrainerSpec {
            model_type: Some(ModelType::Bpe.into()),
            vocab_size: Some(pieces.len() as i32),
            ..trainer
        }),
        normalizer_spec: Some(NormalizerSpec {
            name: Some("identity".into()),
            add_dummy_prefix: Some(true),
            remove_extra_whitespaces: Some(single_spaces),
            escape_whitespaces: Some(true),
            ..NormalizerSpec::default()
        }),
        pieces,
        ..ModelProto::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::text::{SiglipTokenizer, Tokenizer};

    /// What recipes of new language models have to say.
    const VOCABULARY: usize = 1006;

    #[test]
    fn the_shipped_files_are_what_this_code_writes() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano");
        let folder = tempfile::tempdir().unwrap();
        write_tokenizers(folder.path()).unwrap();
        let same = |name: &str| {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(read(&shipped) == read(folder.path()), "{name} differs");
        };
        same("siglip/spiece.model");
        // Shipped weights may be older than words that were added since; then they have fewer tokens.
        let [old, new] = [shipped.as_path(), folder.path()].map(|model| {
            let tokenizer = Tokenizer::from_dir(&model.join("llm")).unwrap();
            let count = |text| tokenizer.encode(text).len() - 1;
            assert_eq!(count("a red heart on a blue background"), 7);
            assert_eq!(count("How many foxes are there?"), 6);
            assert_eq!((count("</s>USER"), count("ASSISTANT: USER")), (2, 4));
            tokenizer
        });
        if old.vocab_size() == new.vocab_size() {
            for name in [
                "llm/tokenizer.model",
                "llm/added_tokens.json",
                "llm/special_tokens_map.json",
                "llm/tokenizer_config.json",
            ] {
                same(name);
            }
        }
        assert!(old.vocab_size() <= new.vocab_size());
        let count = |text| new.encode(text).len() - 1;
        assert_eq!(count("an owl turns anticlockwise on a red background"), 8);
        assert_eq!(count("the first has one bus, the second has two buses"), 11);
        assert_eq!(new.vocab_size(), VOCABULARY);
        let tokenizer = SiglipTokenizer::from_dir(&shipped.join("siglip"), 16).unwrap();
        let ids = tokenizer.encode("A red heart on a blue background.");
        assert!(ids[..7].iter().all(|id| *id > 2) && ids[7..].iter().all(|id| *id == 1));
    }
}
