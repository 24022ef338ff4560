//! Options of `vila-u eval zero-shot`.

use std::path::PathBuf;

use clap::Args;

/// Shown below the options.
pub const EXAMPLES: &str = "Examples:\n  \
    vila-u --model hf:mit-han-lab/vila-u-7b-256 eval zero-shot --data imagenet/val --classes classnames.txt --templates templates.txt\n  \
    vila-u eval zero-shot --data 'wds_imagenet1k/test/*.tar' --classes classnames.txt --templates zeroshot_classification_templates.txt -o results/imagenet\n\n\
    Top-1 and top-5 accuracy of all codes, of the first one of each position, the first two, ..., and of the features before \
    they are quantized. A run that was stopped goes on where it stopped when it is started again. docs/evaluation.md says \
    where the files come from.";

#[derive(Args)]
pub struct EvalZeroShot {
    /// Pictures and their classes: a folder with a folder for each class, WebDataset shards with .cls files, or Parquet
    /// tables with the columns image and label; a pattern such as 'val/*.tar' names several files
    #[arg(long, value_name = "PATH")]
    pub data: String,
    /// The names of the classes: one a line or a JSON list, in the order of their numbers (folders are numbered in the
    /// order of their names), or a line `FOLDER: NAME` for each
    #[arg(long, value_name = "FILE")]
    pub classes: PathBuf,
    /// What is said of a class: one a line or a JSON list, with {} or {c} where the name belongs, as in `a photo of a {}.`
    #[arg(long, value_name = "FILE")]
    pub templates: PathBuf,
    /// The folder for result.json and samples.jsonl
    #[arg(short, long, default_value = "results/zero-shot")]
    pub output: PathBuf,
}
