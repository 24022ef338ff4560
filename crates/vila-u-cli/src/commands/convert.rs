//! `vila-u convert`: a network that training or evaluation needs, out of its authors' files.

use serde_json::json;
use vila_u::{Result, convert::convert};

use super::{check_file, check_not_input};
use crate::{arguments::Convert, console::Console};

pub fn run(args: &Convert, console: &Console) -> Result<()> {
    check_file(&args.output, "safetensors")?;
    check_not_input(&args.output, &args.files)?;
    convert(&args.files, &args.output)?;
    let file = args.output.display().to_string();
    console.result(&file, json!({"file": file}))
}
