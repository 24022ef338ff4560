//! Options of `vila-u eval answers` and `vila-u eval video-qa`.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use vila_u::evaluation::answers::{AnswerMetric, VideoQa};

/// Shown below the options.
pub const ANSWERS_EXAMPLES: &str = "Examples:\n  \
    vila-u eval answers questions.jsonl\n  \
    vila-u eval answers coco_pope_random.json --metric yes-no --media val2014 -o results/pope-random\n  \
    vila-u eval answers mine.jsonl --metric multiple-choice -n 100 --json\n\n\
    A line of the file: {\"id\": 1, \"image\": \"cat.png\", \"question\": \"What is this?\", \"answers\": [\"a cat\", \"cat\"]}\n\n\
    Replies are written to samples.jsonl as they come. The same command goes on where it was stopped, and with another \
    --metric scores the same replies where --suffix is the same.";

/// Shown below the options.
pub const VIDEO_QA_EXAMPLES: &str = "Examples:\n  \
    OPENAI_API_KEY=... vila-u eval video-qa msvd-qa --questions test_qa.json --videos YouTubeClips \\\n      \
      --judge https://api.openai.com/v1 --judge-model gpt-3.5-turbo\n  \
    vila-u eval video-qa activitynet-qa --questions test_q.json --answers test_a.json --videos all_test \\\n      \
      --judge http://127.0.0.1:8001/v1 --judge-model mine\n  \
    vila-u eval video-qa tgif-qa --questions Test_frameqa_question.csv --videos gifs --judge none \\\n      \
      --suffix \"Answer the question using a single word or phrase.\"\n\n\
    The judge says yes or no and a score from 0 to 5 for every reply, as in Video-ChatGPT's evaluation. Replies and \
    verdicts are kept as they come; the same command goes on where it was stopped.";

#[derive(Args)]
pub struct EvalAnswers {
    /// Questions, a JSON object a line or an array of them: id, image (a path, or several) or video, question, answers,
    /// and of multiple-choice questions choices
    pub file: PathBuf,
    /// What makes a reply right: one of the answers; the part of ten people who gave it; yes or no; the right choice
    #[arg(long, default_value = "exact-match", value_parser = metrics())]
    pub metric: AnswerMetric,
    /// The folder that paths in the file start from [default: the file's own]
    #[arg(long)]
    pub media: Option<PathBuf>,
    /// A line after every question; "" for none, as the embedded model wants it [default: LLaVA-1.5's for the metric, which
    /// asks for a word or a phrase, or for a letter]
    #[arg(long)]
    pub suffix: Option<String>,
    #[command(flatten)]
    pub asking: Asking,
    /// The folder for result.json and samples.jsonl; where it has replies already, the rest is asked
    #[arg(short, long, default_value = "results/answers")]
    pub output: PathBuf,
}

#[derive(Args)]
pub struct EvalVideoQa {
    #[arg(value_parser = sets())]
    pub set: VideoQa,
    /// The file of questions as released: test_qa.json, test_q.json, Test_frameqa_question.csv
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,
    /// The file of answers, where they are in one of their own: test_a.json
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// The folder of the videos, in it or in folders in it
    #[arg(long, value_name = "FOLDER")]
    pub videos: PathBuf,
    /// Who says what is right: the address of an OpenAI-compatible API, whose key is in OPENAI_API_KEY; or none, for
    /// replies that are exactly the answer
    #[arg(long, value_name = "URL")]
    pub judge: String,
    /// The judge's name at that address
    #[arg(long, value_name = "NAME")]
    pub judge_model: Option<String>,
    /// The judge's messages, a JSON array, instead of this program's own; see tools/eval/judge_prompt.py
    #[arg(long, value_name = "FILE")]
    pub judge_prompt: Option<PathBuf>,
    /// A line after every question [default: none]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub suffix: String,
    #[command(flatten)]
    pub asking: Asking,
    /// The folder for result.json, samples.jsonl and the judge's verdicts; what it has already is not asked for again
    /// [default: results/SET]
    #[arg(short, long)]
    pub output: Option<PathBuf>,
}

/// How replies are sampled.
#[derive(Args)]
pub struct Asking {
    /// The first questions alone, so many
    #[arg(short)]
    pub n: Option<usize>,
    /// Longest reply, in tokens
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Sampling temperature, above 0 [default: always the most probable token]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Sample from the smallest set of tokens with this total probability [default: the model's own]
    #[arg(long, requires = "temperature")]
    pub top_p: Option<f32>,
    /// Seed of the random choices, for each question its own
    #[arg(long, default_value_t = 0, requires = "temperature")]
    pub seed: u64,
}

fn metrics() -> impl TypedValueParser<Value = AnswerMetric> {
    PossibleValuesParser::new(AnswerMetric::ALL.map(AnswerMetric::name))
        .try_map(|name| AnswerMetric::parse(&name))
}

fn sets() -> impl TypedValueParser<Value = VideoQa> {
    PossibleValuesParser::new(VideoQa::ALL.map(VideoQa::name)).try_map(|name| VideoQa::parse(&name))
}
