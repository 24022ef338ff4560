//! `vila-u bench`: how fast a model is on this machine.

use vila_u::{
    Error, Result, atomic,
    benchmark::{self, Subject, Suite, Watch},
    device,
};

use super::{create_folder, files, to_json};
use crate::{
    arguments::{Bench, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Bench, console: &Console) -> Result<()> {
    let suites = Suite::parse(&args.suite)?;
    let device = device::select(&global.device)?;
    let format = global.dtype;
    format.check(&device)?;
    let subject = Subject {
        files: files(&global.model, console)?,
        device,
        dtype: format,
    };
    let watch = Watch {
        say: &|what| console.say(what),
        stop: console.stop_flag(),
    };
    let report = benchmark::run(&subject, &suites, &watch)?;
    let json = to_json(&report)?;
    if let Some(folder) = &args.output {
        create_folder(folder)?;
        let text = serde_json::to_vec_pretty(&json)
            .map_err(|e| Error::failed(format!("cannot be written as JSON: {e}")))?;
        atomic::write(&folder.join("bench.json"), &text)?;
        report.save_plots(folder)?;
    }
    console.result(report.to_string(), json)
}
