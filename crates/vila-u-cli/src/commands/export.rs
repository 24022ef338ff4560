//! `vila-u export`: a model in the released layout, in any number format.

use std::ops::ControlFlow;

use serde_json::json;
use vila_u::{Result, checkpoint::convert};

use super::files;
use crate::{
    arguments::{Export, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Export, console: &Console) -> Result<()> {
    let format = args.quantize.unwrap_or(global.dtype);
    let files = files(&args.model, console)?;
    console.stop_on_termination();
    convert(&args.output, &files, format, &|done, total| {
        console.progress("writing", done as u64, total as u64, "");
        match console.stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    console.finish();
    let folder = args.output.display().to_string();
    console.result(&folder, json!({"folder": folder, "dtype": format.name()}))
}
