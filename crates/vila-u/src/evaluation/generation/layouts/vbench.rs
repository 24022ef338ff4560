//! VBench: `vbench/VBench_full_info.json` of <https://github.com/Vchitect/VBench>, an array of prompts with the
//! dimensions that they are of, or a list of its `prompts/` folder, a prompt a line. `vbench evaluate` reads
//! `PROMPT-0.mp4` to `PROMPT-4.mp4` from a folder in which nothing else may be: it takes the ending of the first file
//! there for that of all. Of temporal flickering `vbench static_filter` keeps five videos that stand still, so more are
//! made.

use std::collections::HashMap;

use serde::Deserialize;

use super::{super::prompt_file::PromptFile, Prompt, check_name};
use crate::Result;

const SAMPLES: usize = 5;

/// The dimension of which only some videos are kept, and how many are made of each prompt.
const FILTERED: &str = "temporal_flickering";
const FILTERED_SAMPLES: usize = 25;

#[derive(Deserialize)]
struct Entry {
    prompt_en: String,
    #[serde(default)]
    dimension: Vec<String>,
}

pub(super) fn prompts(file: &PromptFile, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let entries = if file.is_array() {
        file.array()?
    } else {
        let entry = |(_, line): (usize, &str)| Entry {
            prompt_en: line.trim().into(),
            dimension: vec![file.stem().into()],
        };
        file.lines().map(entry).collect()
    };
    // A prompt of several entries is one, with the videos of that which wants most.
    let mut order = Vec::new();
    let mut most = HashMap::new();
    for Entry {
        prompt_en,
        dimension,
    } in entries
    {
        let filtered = dimension.iter().any(|dimension| dimension == FILTERED);
        let own = if filtered { FILTERED_SAMPLES } else { SAMPLES };
        let most = most.entry(prompt_en.clone()).or_insert_with(|| {
            order.push(prompt_en);
            own
        });
        *most = own.max(*most);
    }
    let prompts = order.into_iter().enumerate().map(|(index, text)| {
        let count = samples.unwrap_or(most[&text]);
        let names: Vec<String> = (0..count).map(|n| format!("{text}-{n}.mp4")).collect();
        names.iter().try_for_each(|name| check_name(file, name))?;
        Ok(Prompt {
            index,
            files: names.iter().map(|name| format!("videos/{name}")).collect(),
            text,
            sidecar: None,
        })
    });
    prompts.collect()
}
