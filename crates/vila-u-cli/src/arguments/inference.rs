//! Options of the commands that ask a model, let it generate, or look at its codes.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use vila_u::{
    evaluation::generation::{Layout, Shard},
    media::video,
};

#[derive(Args)]
pub struct Generate {
    /// What to generate
    #[arg(required_unless_present = "prompts")]
    pub prompt: Option<String>,
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
    /// How many images or videos [default: 1, or of each prompt of --prompts as many as the benchmark scores]
    #[arg(short, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub n: Option<u32>,
    /// Classifier-free guidance weight; 1 turns guidance off. With --prompts also several, 1,2,3,5, each into a
    /// folder of its own, cfg-1, cfg-2, ... [default: the model's own]
    #[arg(long, value_delimiter = ',')]
    pub cfg: Vec<f64>,
    /// Sampling temperature, above 0 [default: the model's own]
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Sample from the K best codes only; at most the codebook's size, 0 for all [default: 900]
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Sample from the smallest set of codes with this total probability, in (0, 1]
    #[arg(long, default_value_t = 0.96)]
    pub top_p: f64,
    /// Seed of the random choices [default: a new one each time, printed; 0 with --prompts]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Always take the most probable code
    #[arg(long)]
    pub greedy: bool,
    /// Also write the codes, as `encode` does, to this safetensors file; of a video, frame after frame
    #[arg(long)]
    pub codes: Option<PathBuf>,
    /// The prompt file of a benchmark: generates for all of its prompts, into the folder of -o; run again, it goes
    /// on where it was stopped
    #[arg(long, value_name = "FILE", requires_all = ["layout", "output"], conflicts_with_all = ["prompt", "codes"])]
    pub prompts: Option<PathBuf>,
    /// What the prompt file is of, and so the names that are written
    #[arg(long, requires = "prompts", value_parser = layouts())]
    pub layout: Option<Layout>,
    /// Of the prompts only one part, 3/8 the third of eight: the others are for other machines
    #[arg(long, value_name = "PART", requires = "prompts", value_parser = Shard::parse)]
    pub shard: Option<Shard>,
}

fn layouts() -> impl TypedValueParser<Value = Layout> {
    PossibleValuesParser::new(Layout::ALL.map(Layout::name)).try_map(|name| Layout::parse(&name))
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
