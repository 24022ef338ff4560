//! `vila-u convert`: a network that training needs, out of its authors' files.

use serde_json::json;
use vila_u::{Error, Result, training::losses::lpips_file};

use crate::{arguments::Convert, console::Console};

pub fn run(args: &Convert, console: &Console) -> Result<()> {
    match args.output.extension() {
        Some(extension) if extension == "safetensors" => {}
        _ => {
            return Err(Error::usage(format!(
                "{}: give a name that ends in .safetensors",
                args.output.display()
            )));
        }
    }
    lpips_file::convert(&args.files, &args.output)?;
    let file = args.output.display().to_string();
    console.result(&file, json!({"file": file}))
}
