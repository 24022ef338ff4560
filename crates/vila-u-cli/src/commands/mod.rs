//! One file a command: read the input, ask the library, print the result.

pub mod ask;
pub mod bench;
pub mod classify;
pub mod convert;
pub mod data_inspect;
pub mod data_nano;
pub mod decode;
pub mod encode;
pub mod eval_nano;
pub mod eval_quantized;
pub mod export;
pub mod generate;
pub mod info;
pub mod reconstruct;
pub mod score;
pub mod tokenize;
pub mod train;
pub mod train_compare;
mod train_ranks;

use std::path::{Path, PathBuf};

use vila_u::{
    Error, Result,
    burn::tensor::{Device, Tensor, TensorData},
    checkpoint::{self, Checkpoint, Files, Format, Source, Tower},
    media::{self, preprocess},
};

use crate::{arguments::Global, console::Console};

/// The whole model of `--model` on `--device`.
fn load(global: &Global, console: &Console) -> Result<Checkpoint> {
    let (device, format) = device(global)?;
    checkpoint::load(&files(&global.model, console)?, &device, format)
}

/// The vision tower alone: what codes, reconstruction and matching need.
fn load_tower(global: &Global, console: &Console) -> Result<Tower> {
    let (device, format) = device(global)?;
    checkpoint::load_tower(&files(&global.model, console)?, &device, format)
}

fn device(global: &Global) -> Result<(Device, Format)> {
    let device = vila_u::device::select(&global.device)?;
    global.dtype.check(&device)?;
    Ok((device, global.dtype))
}

/// The files of a model, downloaded first if need be.
fn files(model: &str, console: &Console) -> Result<Files> {
    let console = console.clone();
    Source::parse(model)?.files(move |done, total| console.progress("downloading", done, total, ""))
}

/// One image file as the tower sees it, `[1, 3, size, size]` in -1..1.
fn read_pixels(
    path: &Path,
    size: usize,
    mode: preprocess::ResizeMode,
    device: &Device,
) -> Result<Tensor<4>> {
    let picture = media::load(path)?;
    Ok(to_tensor(&picture, size, mode, device))
}

fn to_tensor(
    picture: &media::Picture,
    size: usize,
    mode: preprocess::ResizeMode,
    device: &Device,
) -> Tensor<4> {
    let pixels = preprocess::pixels(picture, size as u32, mode);
    Tensor::from_data(TensorData::new(pixels, [1, 3, size, size]), device)
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

/// A seed for those who gave none.
fn new_seed() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_micros() as u64 % 1_000_000_007)
}

/// The --json form of a result.
fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::failed(format!("cannot be written as JSON: {e}")))
}
