//! The command line: every option, its default and its help.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use vila_u::{checkpoint::WeightDtype, device, media::video};

/// Generate images from text and answer about images with one autoregressive model (VILA-U, arXiv 2409.04429).
#[derive(Parser)]
#[command(
    name = "vila-u",
    version,
    after_help = "Examples:\n  \
        vila-u generate \"a red heart on a blue background\" -o heart.png\n  \
        vila-u ask \"What is in this picture?\" --image heart.png\n  \
        vila-u --model hf:mit-han-lab/vila-u-7b-256 generate \"a cat\" -o cat.png\n\n\
        Results go to standard output, messages to standard error. Exit code 2: wrong usage; 1: any other failure."
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
        vila-u generate --video \"a red heart moves to the left\" -o heart.mp4\n  \
        vila-u generate --video \"a red heart grows\" -n 4 -o hearts --fps 8\n\n\
        A video has as many frames as the model was made for (8). Its name says what is written: .mp4 (H.264), \
        .gif, .webp (without loss), or no ending for a folder of frames 0000.png, 0001.png, ...")]
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
            vila-u train recipe.toml --device cuda --ranks 8\n  \
            vila-u train recipe.toml --device cuda:3 --ranks 16 --rank 11 --leader node0:29500\n\n\
            Ctrl-C and SIGTERM save and stop; a second one stops at once. --resume goes on exactly where the run \
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
    /// Read the weights of a network that training needs from its authors' files
    #[command(
        after_help = "Example: vila-u convert vgg16-397923af.pth vgg.pth -o lpips.safetensors\n\n\
            LPIPS (objective.perceptual of a recipe) is made of two files:\n  \
            vgg16-397923af.pth   https://download.pytorch.org/models/vgg16-397923af.pth\n  \
            vgg.pth              https://github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth;\n                       \
            also in the Python package lpips, under the same path\n\n\
            .pth files are read as data; nothing in them is run."
    )]
    Convert(Convert),
}

#[derive(Args)]
pub struct Generate {
    /// What to generate
    pub prompt: String,
    /// A .png file, or with -n a folder for 0000.png, 0001.png, ... and a contact sheet sheet.png; with --video
    /// a .mp4, .gif or .webp file or a folder of frames, or with -n a folder for 0000.mp4, 0001.mp4, ... and a
    /// sheet with a video in each row
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Generate a video
    #[arg(long)]
    pub video: bool,
    /// Frames a second of the video that is written
    #[arg(long, default_value_t = video::RATE.get(), requires = "video", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub fps: u32,
    /// How many images or videos
    #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub n: u32,
    /// Classifier-free guidance weight; 1 turns guidance off [default: the model's own]
    #[arg(long)]
    pub cfg: Option<f32>,
    /// Sampling temperature, above 0 [default: the model's own]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Sample from the K best codes only; at most the codebook's size, 0 for all [default: 900]
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Sample from the smallest set of codes with this total probability, in (0, 1]
    #[arg(long, default_value_t = 0.96)]
    pub top_p: f32,
    /// Seed of the random choices [default: a new one each time, printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Always take the most probable code
    #[arg(long)]
    pub greedy: bool,
    /// Also write the codes, as `encode` does, to this safetensors file; of a video, frame after frame
    #[arg(long)]
    pub codes: Option<PathBuf>,
}

#[derive(Args)]
pub struct Ask {
    /// The question; each `<image>` in it stands for the next --image and each `<video>` for the next --video,
    /// otherwise they come first
    pub question: String,
    /// An image file; may be given several times
    #[arg(long)]
    pub image: Vec<PathBuf>,
    /// A video: an MP4, an animated GIF or WebP, a folder of frames, or what an installed ffmpeg decodes; may
    /// be given several times
    #[arg(long)]
    pub video: Vec<PathBuf>,
    /// The folder for pictures and videos that the reply holds, 0000.png, 0001.mp4, ... [default: reply]
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Classifier-free guidance weight of pictures in the reply; 1 turns guidance off [default: the model's own]
    #[arg(long)]
    pub cfg: Option<f32>,
    /// Always take the most probable token
    #[arg(long)]
    pub greedy: bool,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Sampling temperature, above 0 [default: the model's own]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Sample from the smallest set of tokens with this total probability [default: the model's own]
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Seed of the random choices [default: a new one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Put the template's system prompt first (the default)
    #[arg(long, overrides_with = "no_system")]
    pub system: bool,
    /// Leave the system prompt out
    #[arg(long)]
    pub no_system: bool,
}

#[derive(Args)]
pub struct Reconstruct {
    pub image: PathBuf,
    /// The .png file to write
    #[arg(short, long)]
    pub output: PathBuf,
    /// Write the original beside the reconstruction
    #[arg(long)]
    pub side_by_side: bool,
}

#[derive(Args)]
pub struct Encode {
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// The safetensors file to write: `codes` [n, h, w, D] i64
    #[arg(short, long)]
    pub output: PathBuf,
    /// Also write `features` [n, h, w, C] f32, the quantized features
    #[arg(long)]
    pub features: bool,
}

#[derive(Args)]
pub struct Decode {
    /// A safetensors file with `codes` [n, h, w, D]
    pub file: PathBuf,
    /// The folder for 0000.png, 0001.png, ...
    #[arg(short, long)]
    pub output: PathBuf,
}

#[derive(Args)]
pub struct Classify {
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// A description; give at least two
    #[arg(long = "label", short, required = true)]
    pub labels: Vec<String>,
}

#[derive(Args)]
pub struct Tokenize {
    pub text: String,
    /// Put this many image placeholders, each with a newline, before the text
    #[arg(long, default_value_t = 0)]
    pub image_slots: usize,
    /// Wrap the text as the prompt of that task; without it the text is tokenized as it is
    #[arg(long = "for", value_enum)]
    pub task: Option<Task>,
    /// Leave the system prompt out of the wrapped prompt
    #[arg(long, requires = "task")]
    pub no_system: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Task {
    /// Image generation
    Image,
    /// Video generation
    Video,
    /// Conversation
    Chat,
}

#[derive(Args)]
pub struct Score {
    /// LLaVA-style records, one JSON object a line; image paths relative to the file
    pub file: PathBuf,
}

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
    /// Train on so many processes that share the work: each takes `batch_size` samples of a step. Without --rank
    /// they are started on this machine, each with a GPU of its own where it has GPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: u16,
    /// Which of the --ranks this process is, from 0, where they are started one by one
    #[arg(long, value_name = "R", requires_all = ["leader", "ranks"])]
    pub rank: Option<u16>,
    /// Where rank 0 waits for the others, in a network that is your own
    #[arg(long, value_name = "HOST:PORT", requires = "rank")]
    pub leader: Option<String>,
    /// Train nothing; plot the curves of the runs in these folders together, and print where they stand
    #[arg(long, value_name = "RUN", num_args = 1.., conflicts_with_all = ["recipe", "set", "resume", "plan", "memory", "ranks", "rank"])]
    pub compare: Vec<PathBuf>,
    /// The picture that --compare writes [default: curves.png]
    #[arg(short, long, conflicts_with = "recipe")]
    pub output: Option<PathBuf>,
}

/// A size such as `80GB` or `512 MiB`, in bytes.
fn bytes(text: &str) -> Result<u64, String> {
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
    /// train, or heldout
    #[arg(long, default_value = "train")]
    pub split: String,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Subcommand)]
pub enum Eval {
    /// Reconstruction, matching, questions, generated images and videos on the held-out nano world
    #[command(after_help = "Example: vila-u eval nano -n 200 -o report/")]
    Nano(EvalNano),
    /// What bf16, q8_0 and q4_0 weights cost against f32: perplexity, and how often the choice is the same
    #[command(after_help = "Example: vila-u eval quantized -n 100")]
    Quantized(EvalQuantized),
}

#[derive(Args)]
pub struct EvalQuantized {
    /// Held-out scenes of the nano world
    #[arg(short, default_value_t = 100)]
    pub n: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args)]
pub struct EvalNano {
    /// Scenes for each measurement
    #[arg(short, default_value_t = 200)]
    pub n: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Classifier-free guidance weight of images and videos; 1 turns guidance off [default: the model's own]
    #[arg(long)]
    pub cfg: Option<f32>,
    /// A folder for contact sheets of what was measured
    #[arg(short, long)]
    pub output: Option<PathBuf>,
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

/// Takes the names of these formats and no others.
fn formats(formats: &[WeightDtype]) -> impl TypedValueParser<Value = WeightDtype> + use<> {
    PossibleValuesParser::new(formats.iter().map(|format| format.name()))
        .try_map(|name| WeightDtype::parse(&name))
}

fn known_device(name: &str) -> Result<String, String> {
    let known = device::parse(name).map_err(|error| error.to_string());
    known.map(|_| name.to_string())
}
