//! The language model that training starts from: a base of the LLaMA architecture as Hugging Face has it, with
//! tokens added.
//!
//! The new tokens mark where pictures and videos begin and end. Their rows in the table and in the head, and
//! those of padding, start as the mean of the base's tokens.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value};

use crate::checkpoint::{self, Component, Files, files::Bytes, weights::load_into};
use crate::language::{Llama, LlamaConfig};
use crate::text::{ADDED_TOKENS, Tokenizer, add_to_json, files_beside_model};
use crate::training::recipe::Config;
use crate::{Error, Result};

/// The sizes of a model made from the base in `folder`: the fields of its `config.json`, if it has one, and
/// those of the recipe over them. Unless the recipe says otherwise, every added token has a row.
///
/// # Errors
/// When the base is of another architecture, or a size is missing.
pub(super) fn config(folder: &Path, recipe: &Config) -> Result<LlamaConfig> {
    let files = Files::folder(folder);
    if !files.contains("config.json") {
        return recipe.read("llm");
    }
    let mut base = checkpoint::config::read_base(&files)?;
    let tokenizer = checkpoint::config::tokenizer(&files)?;
    let tokens = tokenizer.vocab_size() + lacking(&tokenizer).len();
    base.vocab_size = base.vocab_size.max(tokens);
    let mut fields = match serde_json::to_value(base) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.extend(recipe.read::<Map<String, Value>>("llm")?);
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| Error::usage(format!("recipe, [model.llm]: {error}")))
}

/// The weights in `folder`, for a model of this config, which counts the added tokens.
///
/// # Errors
/// When they are damaged, or of other sizes.
pub(super) fn weights(folder: &Path, config: &LlamaConfig, device: &Device) -> Result<Llama> {
    let files = Files::folder(folder);
    let tokenizer = checkpoint::config::tokenizer(&files)?;
    let tokens = tokenizer.vocab_size();
    let rows = if files.contains("config.json") {
        let base = checkpoint::config::read_base(&files)?;
        checkpoint::config::check_vocabulary(&files, &base, &tokenizer)?;
        base.vocab_size
    } else {
        tokens
    };
    if config.vocab_size < tokens {
        return Err(Error::usage(format!(
            "recipe, [model]: llm.vocab_size is {}, the tokenizer has {tokens} tokens",
            config.vocab_size
        )));
    }
    let base = LlamaConfig {
        vocab_size: rows,
        ..config.clone()
    };
    base.check()?;
    let mut llm = base.init(device);
    load_into(&mut llm, folder, Component::Llm)?;
    let table = &mut llm.model.embed_tokens.weight;
    *table = resized(table.val(), 0, tokens, config.vocab_size);
    if let Some(head) = &mut llm.lm_head {
        head.weight = resized(head.weight.val(), 1, tokens, config.vocab_size);
    }
    Ok(llm)
}

/// The folder's tokenizer with the tokens that it lacks, as a checkpoint's files.
///
/// # Errors
/// When there is none, or one of another kind.
pub(super) fn tokenizer(folder: &Path, config: &LlamaConfig) -> Result<Files> {
    let files = Files::folder(folder);
    let tokenizer = checkpoint::config::tokenizer(&files)?;
    let (tokens, longest) = (tokenizer.vocab_size(), config.max_length());
    let changed = if files.contains("tokenizer.model") {
        let mut changed = vec![("tokenizer.model", files.read("tokenizer.model")?)];
        changed.extend(files_beside_model(tokens, longest));
        changed
    } else {
        let json = files.read("tokenizer.json")?;
        let config = files.read("tokenizer_config.json")?;
        let changed = add_to_json(&json, &config, &lacking(&tokenizer), tokens, longest);
        let changed = changed.map_err(Error::in_file(folder))?;
        changed.into()
    };
    let files = changed.into_iter();
    let files = files.map(|(name, content)| (name.to_string(), Bytes::from(content)));
    Ok(Files::memory("recipe", files))
}

/// The tokens of pictures and videos that a vocabulary does not have.
fn lacking(tokenizer: &Tokenizer) -> Vec<&'static str> {
    let added = ADDED_TOKENS.into_iter();
    added
        .filter(|token| tokenizer.added_token_id(token).is_none())
        .collect()
}

/// The first `tokens` rows of a table (`along` 0) or columns of a head (1), and their mean for all up to `rows`.
fn resized(words: Tensor<2>, along: usize, tokens: usize, rows: usize) -> Param<Tensor<2>> {
    let mut words = words.inner().narrow(along, 0, tokens);
    if rows > tokens {
        let mean = words.clone().mean_dim(along);
        words = Tensor::cat(vec![words, mean.repeat_dim(along, rows - tokens)], along);
    }
    Param::from_tensor(words.autodiff())
}
