//! What a run folder says about the run: who started it when with what (`run.json`), and which files it
//! learns from (`sources.json`). And that one program at a time writes there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{checkpoints, failure};
use crate::data::Source;
use crate::json_lines::try_lock;
use crate::training::recipe::Recipe;
use crate::{Error, Result, atomic};

/// `run.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RunRecord {
    seed: u64,
    starts: Vec<RunStart>,
}

/// The run was started, or gone on with.
#[derive(Debug, Serialize, Deserialize)]
struct RunStart {
    /// UTC, RFC 3339.
    time: String,
    /// Steps done before.
    step: u64,
    version: String,
    /// The git revision that the program was built from, if known.
    revision: Option<String>,
    device: String,
    ranks: usize,
    host: Option<String>,
}

/// Notes a start in `run.json`. Why the run stopped before is over.
pub(crate) fn started(
    recipe: &Recipe,
    step: u64,
    revision: Option<&str>,
    device: &burn::tensor::Device,
    ranks: usize,
) -> Result<()> {
    failure::remove(&recipe.out)?;
    let path = recipe.out.join("run.json");
    // A record that cannot be read, of a run that is gone on with, is begun again: it is no reason to stop.
    let mut record: RunRecord = match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).unwrap_or_default(),
        Err(_) => RunRecord::default(),
    };
    record.seed = recipe.seed;
    record.starts.push(RunStart {
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        step,
        version: env!("CARGO_PKG_VERSION").to_string(),
        revision: revision.map(String::from),
        device: format!("{:?}", device.clone().inner())
            .trim_start_matches("Device<")
            .trim_end_matches('>')
            .to_string(),
        ranks,
        host: host(),
    });
    write(&path, &record)
}

/// The name of this machine.
fn host() -> Option<String> {
    let named = || std::env::var("HOSTNAME").ok();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.map(|name| name.trim().to_string())
        .or_else(named)
        .or_else(|| std::env::var("COMPUTERNAME").ok())
}

/// A source of `sources.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ListedSource {
    #[serde(flatten)]
    source: Source,
    shards: Vec<Shard>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shard {
    path: PathBuf,
    bytes: u64,
}

/// Writes `sources.json`.
///
/// # Errors
/// When the run goes on (`resumed`) and a shard that it learns from has another size than when it began.
pub(crate) fn sources(recipe: &Recipe, resumed: bool) -> Result<()> {
    let path = recipe.out.join("sources.json");
    let listed = recipe.data.sources.iter().map(list);
    let listed = listed.collect::<Result<Vec<_>>>()?;
    if resumed && let Ok(json) = fs::read(&path) {
        let before: Vec<ListedSource> = serde_json::from_slice(&json)
            .map_err(|error| Error::invalid(&path, error.to_string()))?;
        same(&before, &listed)?;
    }
    write(&path, &listed)
}

fn list(source: &Source) -> Result<ListedSource> {
    let shard = |path: PathBuf| {
        let bytes = fs::metadata(&path).map_err(Error::io(&path))?.len();
        Ok(Shard { path, bytes })
    };
    Ok(ListedSource {
        source: source.clone(),
        shards: source
            .files()?
            .into_iter()
            .map(shard)
            .collect::<Result<_>>()?,
    })
}

/// That what is trained on is as it was; folders may have moved.
fn same(before: &[ListedSource], now: &[ListedSource]) -> Result<()> {
    let shards = |listed: &[ListedSource]| -> Vec<(PathBuf, u64)> {
        let trained = listed.iter().filter(|listed| !listed.source.held_out);
        let shards = trained.flat_map(|listed| &listed.shards);
        shards
            .map(|shard| (shard.path.clone(), shard.bytes))
            .collect()
    };
    let (before, now) = (shards(before), shards(now));
    let changed = before
        .iter()
        .zip(&now)
        .find(|(before, now)| before.1 != now.1);
    match changed {
        None => Ok(()),
        Some(((_, before), (path, now))) => Err(Error::usage(format!(
            "recipe: data: {} had {before} bytes when the run began and has {now} now: resume with the data \
             that the run began with",
            path.display()
        ))),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let json =
        serde_json::to_vec_pretty(value).map_err(|error| Error::failed(error.to_string()))?;
    atomic::write(path, &json)
}

/// Makes sure that a run may write in this folder, and keeps others out of it.
pub(crate) fn enter(out: &Path, resume: bool) -> Result<File> {
    let holds_run = out.join("metrics.jsonl").exists() || !checkpoints::steps(out).is_empty();
    if resume && !holds_run {
        return Err(Error::usage(format!(
            "{} holds no checkpoint to resume from: run without --resume",
            out.display()
        )));
    }
    if holds_run && !resume {
        return Err(Error::usage(format!(
            "{} already holds a run: continue it with --resume, or choose another folder \
             with --set out=FOLDER",
            out.display()
        )));
    }
    let lock = lock(out)?;
    for folder in [out, &out.join("checkpoints")] {
        atomic::clean(folder)?;
    }
    Ok(lock)
}

/// Keeps other programs out of a run folder until it is dropped, or the program ends in any way.
fn lock(out: &Path) -> Result<File> {
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let path = out.join("run.lock");
    let file = File::create(&path).map_err(Error::io(&path))?;
    if try_lock(&file) {
        return Ok(file);
    }
    Err(Error::usage(format!(
        "{} is in use by a run: wait for it, or choose another folder with --set out=FOLDER",
        out.display()
    )))
}
