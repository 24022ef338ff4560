//! `vila-u eval compare`: two results side by side, and the paper's.

use vila_u::{Result, evaluation::compare::compare};

use super::to_json;
use crate::{arguments::EvalCompare, console::Console};

pub fn run(args: &EvalCompare, console: &Console) -> Result<()> {
    let comparison = compare(&args.a, &args.b)?;
    console.result(comparison.to_string(), to_json(&comparison)?)
}
