//! The command line: every option, its default and its help.

mod eval_answers;
mod eval_fid;
mod eval_loss;
mod eval_zero_shot;
mod inference;
mod models;
mod serve;
mod training;

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
pub use eval_answers::{Asking, EvalAnswers, EvalVideoQa};
pub use eval_fid::*;
pub use eval_loss::EvalLoss;
pub use eval_zero_shot::EvalZeroShot;
pub use inference::*;
pub use models::*;
pub use serve::Serve;
use training::bytes;
pub use training::*;
use vila_u::{
    checkpoint::WeightDtype, data::nano::Split, device, evaluation::benchmarks::nano::Measure,
};

/// Generate images from text and answer about images with one autoregressive model (VILA-U, arXiv 2409.04429).
#[derive(Parser)]
#[command(
    name = "vila-u",
    version,
    after_help = "Examples:\n  \
        vila-u generate \"a red heart on a blue background\" -o heart.png\n  \
        vila-u ask \"What is in this picture?\" --image heart.png\n  \
        vila-u --model hf:mit-han-lab/vila-u-7b-256 generate \"a cat\" -o cat.png\n  \
        vila-u serve\n\n\
        Results go to standard output, messages to standard error. Exit code 2: wrong usage; 1: any other failure.\n\n\
        VILA_U_CPU=avx2 in the environment keeps the CPU to these instructions (plain, neon, avx2, avx512 or amx), which \
        tells whether a wrong result comes from better ones."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
pub struct Global {
    /// `nano` (the small model inside this program), a checkpoint folder, or `hf:ORG/NAME[@REV]`
    #[arg(long, global = true, default_value = "nano")]
    pub model: String,
    /// Where to compute: auto, cpu, or a GPU this program was built for (vulkan, metal, cuda, rocm; of several
    /// cuda:1 is the second)
    #[arg(long, global = true, default_value = "auto", value_parser = known_device)]
    pub device: String,
    /// Number format of the weights in memory: f32; bf16; q8_0 or q4_0 (CPU: large linear layers in blocks of
    /// 8 or 4 bits); f16 where the device computes in it
    #[arg(long, global = true, default_value = "f32", value_parser = formats(&WeightDtype::ALL))]
    pub dtype: WeightDtype,
    /// Memory that a small image or video file may take to be read, 400 MiB unless given: 1GB, 2GiB, ... A larger file
    /// may take 64 bytes more for each of its own
    #[arg(long, global = true, value_name = "SIZE", value_parser = bytes)]
    pub max_input_memory: Option<u64>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no messages, results and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Generate images or videos from a text prompt
    #[command(after_help = "Examples:\n  \
        vila-u generate \"three cats on a white background\" -n 4 -o cats --seed 7\n  \
        vila-u generate --video \"a red heart moves left on a blue background\" -o heart.mp4\n  \
        vila-u generate --video \"a red heart grows\" -n 4 -o hearts --fps 8\n  \
        vila-u generate --prompts evaluation_metadata.jsonl --layout geneval -o geneval\n  \
        vila-u generate --prompts meta_data.json --layout mjhq-30k --cfg 1,2,3,5 --shard 3/8 -o mjhq\n\n\
        A video has as many frames as the model was made for (8). Its name says what is written: .mp4 (H.264), \
        .gif, .webp (without loss), or no ending for a folder of frames 0000.png, 0001.png, ...\n\n\
        Of --prompts, docs/evaluation.md says which file each benchmark has and how it is scored. Beside what is \
        generated, manifest.jsonl says of every file how it was made.")]
    Generate(Generate),
    /// Answer a question about images, videos, or nothing but text, in words and pictures
    #[command(after_help = "Examples:\n  \
        vila-u ask \"What is in this picture?\" --image cat.png\n  \
        vila-u ask \"Is <image> larger than <image>?\" --image a.png --image b.png\n  \
        vila-u ask \"What moves?\" --video clip.mp4 --greedy\n  \
        vila-u ask \"Does <video> show what is in <image>?\" --video clip.mp4 --image heart.png\n  \
        vila-u ask \"<image> one cat. <image> two dogs. <image>\" --image 1.png --image 2.png --image 3.png\n\n\
        The last learns from examples in the question. A reply may hold pictures and videos that the model \
        generates itself: they are written into the folder of -o, and the answer says where.")]
    Ask(Ask),
    /// Answer HTTP requests: OpenAI's API in both directions, and a page to try it on
    #[command(after_help = "Examples:\n  \
        vila-u serve\n  \
        VILA_U_API_KEY=SECRET vila-u --model hf:mit-han-lab/vila-u-7b-256 --dtype q8_0 serve --host 0.0.0.0\n\n\
        Then open http://127.0.0.1:8000, or give a client of OpenAI's API http://127.0.0.1:8000/v1 as its address; \
        http://127.0.0.1:8000/docs says what there is. Ctrl-C and SIGTERM let running requests finish (--drain); a \
        second one stops at once.")]
    Serve(Serve),
    /// Turn an image into codes and back, and say how close it comes
    #[command(after_help = "Example: vila-u reconstruct photo.jpg -o back.png --side-by-side")]
    Reconstruct(Reconstruct),
    /// Write the codes (and features) of images to a safetensors file
    #[command(after_help = "Example: vila-u encode a.png b.png -o codes.safetensors --features")]
    Encode(Encode),
    /// Decode codes to the images that they stand for
    #[command(after_help = "Example: vila-u decode codes.safetensors -o images/")]
    Decode(Decode),
    /// Zero-shot classification: how well each label describes each image
    #[command(
        after_help = "Example: vila-u classify heart.png --label \"a red heart\" --label \"a dog\""
    )]
    Classify(Classify),
    /// Show the token ids that the model sees for a text
    #[command(after_help = "Example: vila-u tokenize \"a red heart\" --for image")]
    Tokenize(Tokenize),
    /// Teacher-forced losses of a dataset's samples
    #[command(after_help = "Example: vila-u score samples.jsonl --json")]
    Score(Score),
    /// Train from a recipe
    #[command(after_help = "Examples:\n  vila-u train recipes/nano-tower.toml\n  \
            vila-u train recipes/nano-sft.toml --set steps=100 --set batch_size=4\n  \
            vila-u train recipes/nano-tower.toml --resume\n  \
            vila-u train recipes/vila-u-7b-256-sft.toml --plan --memory 80GB\n  \
            vila-u train --compare runs/one runs/two -o curves.png\n  \
            vila-u train recipe.toml --device cuda --ranks 8\n\n\
            Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save and stop; a second one stops at once. --resume goes on exactly where the run \
            stopped, however it stopped.")]
    Train(Train),
    /// Look at a dataset, or write one
    #[command(subcommand)]
    Data(Data),
    /// Measure a model
    #[command(subcommand)]
    Eval(Eval),
    /// How fast a model is on this machine, and what limits it
    #[command(after_help = "Examples:\n  vila-u bench --suite nano\n  \
            vila-u info --random vila-u-7b-256 -o random-7b\n  \
            vila-u --model random-7b --dtype bf16 bench --suite decode --json")]
    Bench(Bench),
    /// Parts, parameters, number formats and memory need of a checkpoint
    #[command(
        after_help = "Examples:\n  vila-u info hf:mit-han-lab/vila-u-7b-256\n  \
            vila-u info --random vila-u-7b-256 -o random-7b"
    )]
    Info(Info),
    /// Write a model in the released Hugging Face layout
    #[command(
        after_help = "Examples:\n  vila-u export nano -o nano-checkpoint --dtype f16\n  \
            vila-u export hf:mit-han-lab/vila-u-7b-256 --quantize q4_0 -o vila-u-7b-256-q4\n\n\
            --dtype is the number format of the files. What is quantized runs on the CPU, with this program only."
    )]
    Export(Export),
    /// Read the weights of a network that training or evaluation needs from its authors' files
    #[command(after_help = "Examples:\n  \
            vila-u convert vgg16-397923af.pth vgg.pth -o lpips.safetensors\n  \
            vila-u convert pt_inception-2015-12-05-6726825d.pth -o inception.safetensors\n\n\
            What a file is, its keys tell. LPIPS (objective.perceptual of a recipe, vila-u eval reconstruction --lpips) is \
            made of two files:\n  \
            vgg16-397923af.pth   https://download.pytorch.org/models/vgg16-397923af.pth\n  \
            vgg.pth              https://github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth;\n                       \
            also in the Python package lpips, under the same path\n\n\
            FID's Inception-v3 (vila-u eval reconstruction and eval fid, --inception) is one:\n  \
            pt_inception-2015-12-05-6726825d.pth\n      \
            https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth\n\n\
            .pth files are read as data; nothing in them is run.")]
    Convert(Convert),
}

/// Takes the names of these formats and no others.
fn formats(formats: &[WeightDtype]) -> impl TypedValueParser<Value = WeightDtype> + use<> {
    PossibleValuesParser::new(formats.iter().map(|format| format.name()))
        .try_map(|name| WeightDtype::parse(&name))
}

fn splits() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::ALL.map(Split::name)).try_map(|name| Split::parse(&name))
}

fn measures() -> impl TypedValueParser<Value = Measure> {
    PossibleValuesParser::new(Measure::ALL.map(Measure::name)).try_map(|name| Measure::parse(&name))
}

fn known_device(name: &str) -> Result<String, String> {
    let known = device::parse(name).map_err(|error| error.to_string());
    known.map(|_| name.to_string())
}
