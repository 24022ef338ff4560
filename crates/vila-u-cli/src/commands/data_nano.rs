//! `vila-u data nano`: the nano world as files.

use serde_json::json;
use vila_u::{Error, Result, data::nano::write};

use crate::{arguments::DataNano, console::Console};

pub fn run(args: &DataNano, console: &Console) -> Result<()> {
    if args.n == 0 {
        return Err(Error::usage("-n must be at least 1"));
    }
    console.stop_on_termination();
    write(&args.out, args.split, args.seed, args.n, &mut |done| {
        console.progress("writing", done as u64, args.n as u64, "");
        !console.stopped()
    })?;
    let folder = args.out.display().to_string();
    console.result(&folder, json!({"folder": folder, "scenes": args.n}))
}
