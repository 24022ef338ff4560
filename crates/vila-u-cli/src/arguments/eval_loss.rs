//! Options of `vila-u eval loss`.

use std::path::PathBuf;

use clap::Args;
use vila_u::evaluation::held_out_loss::SAMPLES;

/// Shown below the options.
pub const EXAMPLES: &str = "Examples:\n  \
    vila-u --model runs/nano-pretrain/model eval loss recipes/nano-pretrain.toml\n  \
    vila-u eval loss recipes/nano-sft.toml -n 1000 -o results/nano-loss\n\n\
    Of each kind of sample that the recipe's last stage trains: -log p, in nats, of words and of the codes of visual tokens, \
    all of them and those at each depth.";

#[derive(Args)]
pub struct EvalLoss {
    /// A TOML file whose sources with `held_out = true` are looked at; see recipes/
    pub recipe: PathBuf,
    /// Change a recipe key, as in `--set data.sources.1.path=held-out/*.tar`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The most samples of a kind; with the default, those that evaluations of a training run look at
    #[arg(short, default_value_t = SAMPLES)]
    pub n: usize,
    /// The folder for result.json and samples.jsonl
    #[arg(short, long, default_value = "results/loss")]
    pub output: PathBuf,
}
