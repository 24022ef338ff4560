//! `vila-u eval fid`: how far two sets of pictures are apart.

use std::{path::Path, time::Instant};

use same_file::is_same_file;
use vila_u::{
    Error, Result,
    burn::tensor::Device,
    device,
    evaluation::{
        benchmarks::fid::{self, Categories, Options, Side},
        fid::{Definition, Extractor},
        inception::Inception,
        record::Identity,
    },
};

use super::{check_folder, to_json};
use crate::{
    arguments::{EvalFid, Global, Network},
    console::Console,
};

pub fn run(global: &Global, args: &EvalFid, console: &Console) -> Result<()> {
    let started = Instant::now();
    check_folder(&args.output)?;
    for side in [&args.a, &args.b] {
        // The statistics that are written must not replace those that are read.
        let folder = Path::new(side).parent();
        let same = folder.is_some_and(|folder| is_same_file(folder, &args.output).unwrap_or(false));
        if same && side.ends_with(".npz") {
            return Err(Error::usage(format!(
                "{side} is in the folder of the result: name another with -o"
            )));
        }
    }
    let (a, b) = (Side::open(&args.a)?, Side::open(&args.b)?);
    let device = device::select(&global.device)?;
    let mut networks = Vec::new();
    let categories = match &args.categories {
        Some(path) => Some(Categories::read(path)?),
        None => args.per_category.then_some(Categories::Class),
    };
    let options = Options {
        extractor: extractor(&args.network, args.definition, &device, &mut networks)?,
        categories,
        batch: args.batch_size as usize,
    };
    let mut record = fid::run(a, b, &options, &args.output, &mut |side, done, total| {
        let what = format!("pictures of the {side} side");
        match total {
            Some(total) => console.progress(&what, done as u64, total as u64, ""),
            None => console.count(&what, done as u64),
        }
        !console.stopped()
    })?;
    console.finish();
    record.data.extend(networks);
    record.seconds = started.elapsed().as_secs_f64();
    record.write(&args.output)?;
    console.result(fid::table(&record), to_json(&record)?)
}

/// The network of `--inception`, if it is given; the identity of its file is added to `networks`.
pub(super) fn extractor(
    network: &Network,
    definition: Definition,
    device: &Device,
    networks: &mut Vec<Identity>,
) -> Result<Option<Extractor>> {
    let Some(path) = &network.inception else {
        return Ok(None);
    };
    let mut layers = network.layer.clone();
    layers.sort();
    layers.dedup();
    let inception = Inception::load(path, device)?;
    networks.push(Identity::of_file(path)?);
    Ok(Some(Extractor {
        inception,
        definition,
        layers,
    }))
}
