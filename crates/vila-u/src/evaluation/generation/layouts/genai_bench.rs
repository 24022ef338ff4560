//! GenAI-Bench: `genai_image.json`, an object of prompts by number (`"00000"`), of 1,600 prompts
//! (<https://huggingface.co/datasets/BaiqiLi/GenAI-Bench>) or of the 527 of the VQAScore paper
//! (<https://huggingface.co/datasets/zhiqiulin/GenAI-Bench-527>). `genai_bench/evaluate.py` of
//! <https://github.com/linzhiqiu/t2v_metrics> reads one `NUMBER.jpeg` of each.

use serde::Deserialize;

use super::{super::prompt_file::PromptFile, Prompt, check_name, numbered};
use crate::Result;

#[derive(Deserialize)]
struct Entry {
    prompt: String,
}

pub(super) fn prompts(file: &PromptFile, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let entries = file.object::<Entry>()?.into_iter().enumerate();
    let prompts = entries.map(|(index, (key, entry))| {
        check_name(file, &key)?;
        Ok(Prompt {
            index,
            text: entry.prompt,
            files: numbered(&key, "jpeg", samples),
            sidecar: None,
        })
    });
    prompts.collect()
}
