//! PartiPrompts: `PartiPrompts.tsv` of <https://github.com/google-research/parti>, a table with the columns Prompt,
//! Category, Challenge and Note. People score it; there is no program that wants certain names.

use std::borrow::Cow;

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
        let field = line.split('\t').nth(column).map(unquoted);
        let field = field.filter(|field| !field.trim().is_empty());
        let Some(text) = field else {
            return Err(file.invalid_line(number, format!("no {COLUMN}")));
        };
        Ok(Prompt {
            index,
            text: text.trim().into(),
            files: numbered(&format!("{index:05}"), "png", samples),
            sidecar: None,
        })
    });
    prompts.collect()
}

/// A field that a program has put in quotes because of those in it.
fn unquoted(field: &str) -> Cow<'_, str> {
    let inner = field
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match inner {
        // Quotes of the prompt itself are single there.
        Some(inner) if !inner.replace("\"\"", "").contains('"') => {
            inner.replace("\"\"", "\"").into()
        }
        _ => field.into(),
    }
}
