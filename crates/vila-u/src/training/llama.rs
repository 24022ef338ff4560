//! The language model that pretraining starts from: a LLaMA as Hugging Face has it, four words longer.
//!
//! The new words mark where pictures and videos begin and end. Their rows, in the table and in the head,
//! start as the mean of all others.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::{Component, Files, files::Bytes, weights::load_into};
use crate::language::{Llama, LlamaConfig};
use crate::text::companions;
use crate::{Error, Result};

const NEW: usize = 4;

/// The weights in `folder`, for a model of this config, which counts the new words.
///
/// # Errors
/// When they are damaged, or of other sizes.
pub fn weights(folder: &Path, config: &LlamaConfig, device: &Device) -> Result<Llama> {
    let old = LlamaConfig {
        vocab_size: config.vocab_size.saturating_sub(NEW),
        ..config.clone()
    };
    old.check().map_err(Error::usage)?;
    let mut llm = old.init(device);
    load_into(&mut llm, folder, Component::Llm)?;
    let table = &mut llm.model.embed_tokens.weight;
    *table = longer(table.val(), 0);
    if let Some(head) = &mut llm.lm_head {
        head.weight = longer(head.weight.val(), 1);
    }
    Ok(llm)
}

/// The folder's tokenizer with the new words, as a checkpoint's files.
///
/// # Errors
/// When there is none of LLaMA's kind.
pub fn tokenizer(folder: &Path, config: &LlamaConfig) -> Result<Files> {
    let model = Files::folder(folder).read("tokenizer.model")?;
    let old = config.vocab_size.saturating_sub(NEW);
    let mut files = vec![("tokenizer.model".to_string(), Bytes::from(model))];
    for (name, content) in companions(old, config.max_length()) {
        files.push((name.to_string(), Bytes::from(content)));
    }
    Ok(Files::memory("recipe", files))
}

fn longer(words: Tensor<2>, along: usize) -> Param<Tensor<2>> {
    let words = words.inner();
    let mean = words.clone().mean_dim(along);
    let longer = Tensor::cat(vec![words, mean.repeat_dim(along, NEW)], along);
    Param::from_tensor(longer.autodiff())
}
