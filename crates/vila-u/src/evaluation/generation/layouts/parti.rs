//! PartiPrompts: `PartiPrompts.tsv` of <https://github.com/google-research/parti>, a table with the columns Prompt,
//! Category, Challenge and Note; quotes in it are those of the prompts. People score it: no program wants certain names.

use super::{super::prompt_file::PromptFile, Prompt, numbered};
use crate::Result;

const COLUMN: &str = "Prompt";

pub(super) fn prompts(file: &PromptFile, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let mut lines = file.lines();
    let header = lines.next().map_or("", |(_, line)| line);
    let Some(column) = header.split('\t').position(|name| name.trim() == COLUMN) else {
        return Err(file.invalid(format!("its first line names no column {COLUMN}")));
    };
    let prompts = lines.enumerate().map(|(index, (number, line))| {
        let field = line.split('\t').nth(column).map(str::trim);
        let field = field.filter(|field| !field.is_empty());
        let Some(text) = field else {
            return Err(file.invalid_line(number, format!("no {COLUMN}")));
        };
        Ok(Prompt {
            index,
            text: text.into(),
            files: numbered(&format!("{index:05}"), "png", samples),
            sidecar: None,
        })
    });
    prompts.collect()
}
