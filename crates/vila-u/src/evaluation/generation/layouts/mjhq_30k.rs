//! MJHQ-30K: `meta_data.json` of <https://huggingface.co/datasets/playgroundai/MJHQ-30K>, an object of prompts and
//! categories by key. Its reference pictures are `CATEGORY/KEY.jpg`; FID is of all of them and of each category. PNG
//! files, for FID takes the artefacts of JPEG for a difference.

use serde::Deserialize;

use super::{super::prompt_file::PromptFile, Prompt, check_name, numbered};
use crate::Result;

#[derive(Deserialize)]
struct Entry {
    category: String,
    prompt: String,
}

pub(super) fn prompts(file: &PromptFile, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let entries = file.object::<Entry>()?.into_iter().enumerate();
    let prompts = entries.map(|(index, (key, entry))| {
        check_name(file, &entry.category)?;
        check_name(file, &key)?;
        Ok(Prompt {
            index,
            text: entry.prompt,
            files: numbered(&format!("{}/{key}", entry.category), "png", samples),
            sidecar: None,
        })
    });
    prompts.collect()
}
