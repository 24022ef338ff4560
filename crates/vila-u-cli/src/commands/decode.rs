//! `vila-u decode`: codes to images.

use std::{fs::File, io::Read, path::Path};

use serde_json::json;
use vila_u::{
    Codes, Error, Result, media,
    safetensors::{Dtype, SafeTensors},
};

use super::{check_folder, check_not_input, create_folder, numbered, pipeline};
use crate::{
    arguments::{Decode, Global},
    console::Console,
};

/// Larger files of codes are refused before they are read.
const LARGEST_FILE: u64 = 1 << 30;

pub fn run(global: &Global, args: &Decode, console: &Console) -> Result<()> {
    check_folder(&args.output)?;
    let codes = read_codes(&args.file)?;
    let pipeline = pipeline(global, console).vision_only().build()?;
    let mut files = Vec::new();
    for (index, one) in codes.iter().enumerate() {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        let picture = pipeline
            .decode(one)
            .map_err(|error| Error::invalid(&args.file, error.to_string()))?;
        create_folder(&args.output)?;
        let file = numbered(&args.output, index);
        check_not_input(&file, [&args.file])?;
        media::save_png(&file, &picture)?;
        files.push(file.display().to_string());
        console.progress("decoding", index as u64 + 1, codes.len() as u64, "");
    }
    console.result(files.join("\n"), json!({"files": files}))
}

/// The tensor `codes` [n, h, w, D] of a safetensors file, i64 or i32: those of each image.
fn read_codes(file: &Path) -> Result<Vec<Codes>> {
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(Error::io(file))?;
    let read = opened.take(LARGEST_FILE + 1).read_to_end(&mut bytes);
    read.map_err(Error::io(file))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Error::invalid(file, "larger than 1 GiB: divide it"));
    }
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::invalid(file, format!("not a safetensors file: {e}")))?;
    let codes = tensors.tensor("codes").map_err(|_| {
        let names = tensors.names().join(", ");
        Error::invalid(file, format!("has no tensor `codes`, only: {names}"))
    })?;
    let [_, shape @ ..]: [usize; 4] = codes.shape().try_into().map_err(|_| {
        Error::invalid(
            file,
            format!("`codes` has shape {:?}, not [n, h, w, D]", codes.shape()),
        )
    })?;
    let data = codes.data();
    let values: Vec<i64> = match codes.dtype() {
        Dtype::I64 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect(),
        Dtype::I32 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| i32::from_le_bytes(*b).into())
            .collect(),
        other => {
            let reason = format!("`codes` holds {other:?}, not I64 or I32");
            return Err(Error::invalid(file, reason));
        }
    };
    if values.is_empty() {
        return Err(Error::invalid(file, "`codes` is empty"));
    }
    let images = values.chunks(shape.iter().product());
    images
        .map(|values| Codes::new(shape, values.to_vec()))
        .collect()
}
