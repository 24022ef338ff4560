//! Options of the commands about training and its data.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vila_u::data::nano::Split;

use super::splits;

#[derive(Args)]
pub struct Train {
    /// A TOML file; see recipes/
    #[arg(required_unless_present = "compare")]
    pub recipe: Option<PathBuf>,
    /// Change a recipe key, as in `--set steps=100`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the last checkpoint in the recipe's `out` folder
    #[arg(long)]
    pub resume: bool,
    /// Train nothing; print what is trained and frozen, tokens a step, and the memory that it takes, from
    /// sizes alone
    #[arg(long)]
    pub plan: bool,
    /// Memory to plan for, as in 80GB, where it is that of another machine or of a GPU, which cannot be asked
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Train on so many ranks of this machine that share the work: each takes `batch_size` samples of a step, and a GPU
    /// of its own where there are GPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: u16,
    /// Train nothing; plot the curves of the runs in these folders together, and print where they stand
    #[arg(long, value_name = "RUN", num_args = 1.., conflicts_with_all = ["recipe", "set", "resume", "plan", "memory", "ranks"])]
    pub compare: Vec<PathBuf>,
    /// The picture that --compare writes [default: curves.png]
    #[arg(short, long, conflicts_with = "recipe")]
    pub output: Option<PathBuf>,
}

/// A size such as `80GB` or `512 MiB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        _ => return Err("write it as 80GB, 80GiB or 512MB".into()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit < 1e18 => Ok((number * unit) as u64),
        _ => Err("write it as 80GB, 80GiB or 512MB".into()),
    }
}

#[derive(Subcommand)]
pub enum Data {
    /// The nano world: emoji scenes with captions, questions and answers
    #[command(after_help = "Example: vila-u data nano --out nano-data -n 1000")]
    Nano(DataNano),
    /// Samples of a recipe as the model sees them: tokens, where loss is, pictures
    #[command(
        after_help = "Example: vila-u data inspect recipes/nano-pretrain.toml -n 16 -o seen/\n\n\
            Tokens in [brackets] are predicted. Parts of a picture that are hidden from the model are grey."
    )]
    Inspect(DataInspect),
}

#[derive(Args)]
pub struct DataInspect {
    /// A TOML file; see recipes/
    pub recipe: PathBuf,
    /// Change a recipe key, as in `--set data.sources.0.weight=2`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// How many samples
    #[arg(short, default_value_t = 8)]
    pub n: usize,
    /// A folder for the pictures, as the contact sheet sheet.png
    #[arg(short, long)]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct DataNano {
    /// The folder to write: scenes, videos, pages, comparisons and questions in the layouts of WebDataset, LLaVA,
    /// OpenVid and MMC4
    #[arg(short, long)]
    pub out: PathBuf,
    /// How many scenes; and for every four of them a video, a page, a comparison and a riddle
    #[arg(short, default_value_t = 1000)]
    pub n: usize,
    /// What training sees, or what is held out from it, to make choices by or to report
    #[arg(long, default_value = "train", value_parser = splits())]
    pub split: Split,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
