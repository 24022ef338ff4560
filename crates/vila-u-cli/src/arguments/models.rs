//! Options of the commands that measure a model, look into its files, or write them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vila_u::{checkpoint::WeightDtype, data::nano::Split, evaluation::benchmarks::nano::Measure};

use super::{
    EvalAnswers, EvalFid, EvalLoss, EvalReconstruction, EvalVideoQa, EvalZeroShot, eval_answers,
    eval_loss, eval_zero_shot, formats, measures, splits,
};

#[derive(Subcommand)]
pub enum Eval {
    /// Reconstruction, matching, questions, images and videos of the nano world, on what was held out from training
    #[command(after_help = "Examples:\n  \
        vila-u eval nano -o report/\n  \
        vila-u eval nano --only generation,questions -n 100\n  \
        vila-u eval nano --only generation --split validation --cfg 2 --temperature 0.5\n\n\
        Choose by the validation split, report the test split; on the train split the same measures say what a model \
        knows by heart.")]
    Nano(EvalNano),
    /// How much of pictures the codes keep, with the first code of each position, the first two, and so on: rFID,
    /// inception score, PSNR, SSIM, LPIPS, use of the codebook
    #[command(after_help = "Examples:\n  \
        vila-u eval reconstruction --data imagenet/val --inception inception.safetensors --lpips lpips.safetensors\n  \
        vila-u eval reconstruction --data \"val/{00..63}.tar\" --inception inception.safetensors --definition clean-fid\n\n\
        Without --inception there is no rFID, without --lpips no LPIPS; vila-u convert --help says how to get both. The \
        statistics that it writes can be compared with others: vila-u eval fid.")]
    Reconstruction(EvalReconstruction),
    /// FID, how far two sets of pictures are apart
    #[command(after_help = "Examples:\n  \
        vila-u eval fid mjhq30k_imgs generated --inception inception.safetensors --per-category\n  \
        vila-u eval fid mjhq30k_imgs flat --inception inception.safetensors --categories meta_data.json\n  \
        vila-u eval fid imagenet-val.npz results/reconstruction/reconstruction.npz\n\n\
        The definition must be the one that statistics were made by: pytorch-fid's --save-stats and clean-fid's \
        make_custom_stats write such files, and this command.")]
    Fid(EvalFid),
    /// What bf16, q8_0 and q4_0 weights cost against f32: perplexity, and how often the choice is the same
    #[command(after_help = "Example: vila-u eval quantized -n 100")]
    Quantized(EvalQuantized),
    /// Zero-shot classification of labelled pictures: top-1 and top-5 accuracy of a vision tower
    #[command(name = "zero-shot", after_help = eval_zero_shot::EXAMPLES)]
    ZeroShot(EvalZeroShot),
    /// How well a model predicts the words and the codes that a recipe holds out, for each kind of sample
    #[command(after_help = eval_loss::EXAMPLES)]
    Loss(EvalLoss),
    /// Questions of your own about images and videos, or those of POPE, VQA, ...: how many replies are right
    #[command(after_help = eval_answers::ANSWERS_EXAMPLES)]
    Answers(EvalAnswers),
    /// MSVD-QA, MSRVTT-QA, TGIF-QA, ActivityNet-QA: replies about videos, judged by a language model
    #[command(after_help = eval_answers::VIDEO_QA_EXAMPLES)]
    VideoQa(EvalVideoQa),
    /// Two results of one evaluation side by side: what differs in how they were made, whether the numbers differ by more
    /// than chance, and the paper's
    #[command(after_help = "Example: vila-u eval compare results/zero-shot results/zero-shot-bf16")]
    Compare(EvalCompare),
}

#[derive(Args)]
pub struct EvalCompare {
    /// The folder of a result, or its result.json
    pub a: PathBuf,
    /// The other, of the same evaluation
    pub b: PathBuf,
}

#[derive(Args)]
pub struct EvalQuantized {
    /// Held-out scenes of the nano world
    #[arg(short, default_value_t = 100)]
    pub n: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The folder for result.json
    #[arg(short, long, default_value = "results/quantized")]
    pub output: PathBuf,
}

#[derive(Args)]
pub struct EvalNano {
    /// Scenes, videos, comparisons or riddles for each measure
    #[arg(short, default_value_t = 100)]
    pub n: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The scenes to measure on
    #[arg(long, default_value = "test", value_parser = splits())]
    pub split: Split,
    /// These measures alone, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_parser = measures())]
    pub only: Vec<Measure>,
    /// Classifier-free guidance weight of images and videos; 1 turns guidance off [default: the model's own]
    #[arg(long)]
    pub cfg: Option<f32>,
    /// Temperature of the codes of images and videos, above 0 [default: the model's own]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// The folder for result.json and contact sheets of what was measured
    #[arg(short, long, default_value = "results/nano")]
    pub output: PathBuf,
}

#[derive(Args)]
pub struct Bench {
    /// decode, depth, tower or generate of --model; train, nano or growth of the nano model; or all
    #[arg(long, default_value = "all")]
    pub suite: String,
    /// A folder for the result as bench.json, and for plots of growth
    #[arg(short, long)]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct Info {
    /// The model to look at [default: the one of --model]
    pub model: Option<String>,
    /// Make a checkpoint of a released model's sizes with random weights, which take no room on disk:
    /// vila-u-7b-256 or vila-u-7b-384
    #[arg(long, value_name = "NAME", requires = "output")]
    pub random: Option<String>,
    /// The folder to write the random checkpoint to; must not exist
    #[arg(short, long, requires = "random")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct Export {
    /// `nano`, a folder, or `hf:ORG/NAME[@REV]`
    pub model: String,
    /// The folder to write; must not exist
    #[arg(short, long)]
    pub output: PathBuf,
    /// Put the large linear layers in fewer bits, for the CPU: q8_0, q4_0 or bf16
    #[arg(long, value_name = "FORMAT", value_parser = formats(&[WeightDtype::Q8_0, WeightDtype::Q4_0, WeightDtype::BF16]))]
    pub quantize: Option<WeightDtype>,
}

#[derive(Args)]
pub struct Convert {
    /// The files, in any order: PyTorch (.pth) or safetensors
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The .safetensors file to write
    #[arg(short, long)]
    pub output: PathBuf,
}
