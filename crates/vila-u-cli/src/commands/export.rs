//! `vila-u export`: a model in the released layout, in any number format.

use serde_json::json;
use vila_u::{Result, checkpoint::convert};

use super::files;
use crate::{
    arguments::{Export, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Export, console: &Console) -> Result<()> {
    let format = args.quantize.unwrap_or(global.dtype);
    convert(&args.output, &files(&args.model, console)?, format)?;
    let folder = args.output.display().to_string();
    console.result(&folder, json!({"folder": folder, "dtype": format.name()}))
}
