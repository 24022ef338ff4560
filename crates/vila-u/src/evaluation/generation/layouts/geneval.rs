//! GenEval: `prompts/evaluation_metadata.jsonl` of <https://github.com/djghosh13/geneval>, a JSON object a line. Its
//! `evaluation/evaluate_images.py` reads `00000/metadata.jsonl`, which is the line of the prompt, and scores every
//! `00000/samples/*.png`.

use serde::Deserialize;

use super::{super::prompt_file::PromptFile, Prompt};
use crate::Result;

/// Images of a prompt that the published numbers are means of.
const SAMPLES: usize = 4;

#[derive(Deserialize)]
struct Metadata {
    prompt: String,
}

pub(super) fn prompts(file: &PromptFile, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let samples = samples.unwrap_or(SAMPLES);
    let lines = file.lines().enumerate();
    let prompts = lines.map(|(index, (number, line))| {
        let metadata: Metadata =
            serde_json::from_str(line).map_err(|error| file.invalid_line(number, error))?;
        let name = |sample| format!("{index:05}/samples/{sample:04}.png");
        Ok(Prompt {
            index,
            text: metadata.prompt,
            files: (0..samples).map(name).collect(),
            sidecar: Some((
                format!("{index:05}/metadata.jsonl"),
                format!("{}\n", line.trim()),
            )),
        })
    });
    prompts.collect()
}
