//! One file a command: read the input, ask the library, print the result.

pub mod ask;
pub mod bench;
pub mod classify;
pub mod convert;
pub mod data_inspect;
pub mod data_nano;
pub mod decode;
pub mod encode;
pub mod eval_answers;
pub mod eval_compare;
pub mod eval_fid;
pub mod eval_loss;
pub mod eval_nano;
pub mod eval_quantized;
pub mod eval_reconstruction;
pub mod eval_zero_shot;
pub mod export;
pub mod generate;
mod generate_prompts;
pub mod info;
pub mod reconstruct;
pub mod score;
pub mod serve;
pub mod tokenize;
pub mod train;
pub mod train_compare;
mod train_ranks;

use std::path::{Path, PathBuf};

use vila_u::{
    Error, Pipeline, PipelineBuilder, Result,
    checkpoint::{Files, Source},
};

use crate::{arguments::Global, console::Console};

/// The model of `--model` on `--device`, not loaded yet.
fn pipeline(global: &Global, console: &Console) -> PipelineBuilder {
    let console = console.clone();
    Pipeline::builder(&global.model)
        .device(&global.device)
        .dtype(global.dtype)
        .on_download(move |done, total| console.progress("downloading", done, total, ""))
}

/// The files of a model, downloaded first if need be.
fn files(model: &str, console: &Console) -> Result<Files> {
    let console = console.clone();
    Source::parse(model)?.files(move |done, total| console.progress("downloading", done, total, ""))
}

/// `DIR/0000.png`, `DIR/0001.png`, ...
fn numbered(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index:04}.png"))
}

/// Refuses a file that does not end so, or whose folder is not there, before anything is computed for it.
fn check_file(file: &Path, ending: &str) -> Result<()> {
    let ends = |extension: &std::ffi::OsStr| extension.eq_ignore_ascii_case(ending);
    if file.extension().is_some_and(ends) {
        check_parent(file)
    } else {
        Err(Error::usage(format!(
            "{}: give a name that ends in .{ending}",
            file.display()
        )))
    }
}

/// Refuses a file whose folder is not there.
fn check_parent(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(Error::usage(format!(
                "{}: there is no folder {}",
                file.display(),
                folder.display()
            )))
        }
        _ => Ok(()),
    }
}

/// Refuses an output that is one of the inputs, whatever links lead to it: it would be gone if anything failed, and
/// its picture in any case.
fn check_not_input<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let same = |input: &&PathBuf| same_file::is_same_file(output, input).unwrap_or(false);
    match inputs.into_iter().find(same) {
        Some(input) => Err(Error::usage(format!(
            "{} is the input {}: name another output",
            output.display(),
            input.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses a folder whose name is that of a file.
fn check_folder(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        Err(Error::usage(format!(
            "{} is a file: name a folder",
            folder.display()
        )))
    } else {
        Ok(())
    }
}

fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))
}

/// The --json form of a result.
fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::failed(format!("cannot be written as JSON: {e}")))
}
