//! Any text file, a prompt a line.

use super::{super::prompt_file::PromptFile, Prompt, numbered};
use crate::engine::VisualKind;

pub(super) fn prompts(file: &PromptFile, kind: VisualKind, samples: Option<usize>) -> Vec<Prompt> {
    let ending = match kind {
        VisualKind::Image => "png",
        VisualKind::Video => "mp4",
    };
    let lines = file.lines().enumerate();
    let prompts = lines.map(|(index, (_, line))| Prompt {
        index,
        text: line.trim().into(),
        files: numbered(&format!("{index:05}"), ending, samples),
        sidecar: None,
    });
    prompts.collect()
}
