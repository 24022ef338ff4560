//! `vila-u export`: a model in the released layout.

use serde_json::json;
use vila_u::{
    Result,
    burn::tensor::DType,
    checkpoint::{load, save},
};

use super::files;
use crate::{
    arguments::{Export, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Export, console: &Console) -> Result<()> {
    let device = vila_u::device::select("cpu")?;
    let dtype = vila_u::device::dtype(&global.dtype)?;
    let files = files(&args.model, console)?;
    let loaded = load(&files, &device, DType::F32)?;
    save(&args.output, &loaded.config, &loaded.model, &files, dtype)?;
    let folder = args.output.display().to_string();
    console.result(&folder, json!({"folder": folder}))
}
