//! `vila-u eval answers` and `vila-u eval video-qa`: replies to questions, and how many are right.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use vila_u::{
    AskOptions, Error, Result,
    evaluation::{
        answers::{self, AnswerMetric, Item, Judge, JudgePrompt, Replies},
        record::{EvaluationRecord, Identity},
    },
};

use super::{check_folder, files, pipeline, to_json};
use crate::{
    arguments::{self, EvalAnswers, EvalVideoQa, Global},
    console::Console,
};

pub fn answers(global: &Global, args: &EvalAnswers, console: &Console) -> Result<()> {
    let own = args.file.parent().unwrap_or(Path::new(""));
    let items = Item::read(&args.file, args.media.as_deref().unwrap_or(own))?;
    let suffix = args.suffix.as_deref().unwrap_or(args.metric.suffix());
    let evaluation = Evaluation {
        name: "answers",
        data: vec![identity(&args.file, items.len())?],
        items: first(items, &args.asking),
        suffix,
        asking: &args.asking,
        output: &args.output,
        scorer: Scorer::Metric(args.metric),
    };
    evaluation.run(global, console)
}

pub fn video_qa(global: &Global, args: &EvalVideoQa, console: &Console) -> Result<()> {
    let scorer = match args.judge.as_str() {
        "none" => Scorer::Metric(AnswerMetric::ExactMatch),
        url => Scorer::Judge(judge(url, args)?),
    };
    let items = args
        .set
        .read(&args.questions, args.answers.as_deref(), &args.videos)?;
    let files = [Some(&args.questions), args.answers.as_ref()];
    let data = files.into_iter().flatten();
    let data = data.map(|path| identity(path, items.len()));
    let default = PathBuf::from("results").join(args.set.name());
    let evaluation = Evaluation {
        name: args.set.name(),
        data: data.collect::<Result<_>>()?,
        items: first(items, &args.asking),
        suffix: &args.suffix,
        asking: &args.asking,
        output: args.output.as_deref().unwrap_or(&default),
        scorer,
    };
    evaluation.run(global, console)
}

fn judge(url: &str, args: &EvalVideoQa) -> Result<Judge> {
    let Some(model) = &args.judge_model else {
        return Err(Error::usage(
            "name the judge at this address with --judge-model, or give --judge none",
        ));
    };
    let prompt = args.judge_prompt.as_deref().map(JudgePrompt::read);
    let prompt = prompt.transpose()?.unwrap_or_default();
    Judge::new(url, model, std::env::var("OPENAI_API_KEY").ok(), prompt)
}

/// A file of `n` questions.
fn identity(path: &Path, n: usize) -> Result<Identity> {
    let n = Some(n);
    Ok(Identity {
        n,
        ..Identity::of_file(path)?
    })
}

fn first(mut items: Vec<Item>, asking: &arguments::Asking) -> Vec<Item> {
    items.truncate(asking.n.unwrap_or(usize::MAX));
    items
}

enum Scorer {
    Metric(AnswerMetric),
    Judge(Judge),
}

struct Evaluation<'a> {
    name: &'a str,
    data: Vec<Identity>,
    items: Vec<Item>,
    suffix: &'a str,
    asking: &'a arguments::Asking,
    output: &'a Path,
    scorer: Scorer,
}

impl Evaluation<'_> {
    fn run(self, global: &Global, console: &Console) -> Result<()> {
        let started = Instant::now();
        check_folder(self.output)?;
        let asking = answers::Asking {
            suffix: self.suffix.into(),
            options: options(self.asking)?,
        };
        if let Scorer::Metric(metric) = self.scorer {
            metric.check(&self.items)?;
        }
        let mut record = EvaluationRecord::new(self.name);
        let model = Identity::of_model(&global.model, &files(&global.model, console)?)?;
        record.model = Some(model);
        record.data = self.data;
        record.settings = asking.settings();
        record.set("dtype", global.dtype.name());
        let pipeline = pipeline(global, console).build()?;
        let mut progress = |what: &str, done, total| {
            console.progress(what, done as u64, total as u64, "");
            !console.stopped()
        };
        let (items, folder) = (&self.items, self.output);
        let replies = Replies::collect(&pipeline, items, &asking, &record, folder, &mut progress)?;
        match &self.scorer {
            Scorer::Metric(metric) => {
                answers::by_metric(*metric, items, replies, folder, &mut record)?;
            }
            Scorer::Judge(judge) => {
                answers::by_judge(judge, items, replies, folder, &mut record, &mut progress)?;
            }
        }
        record.seconds = started.elapsed().as_secs_f64();
        record.write(folder)?;
        console.finish();
        console.result(record.to_string(), to_json(&record)?)
    }
}

fn options(args: &arguments::Asking) -> Result<AskOptions> {
    if args.max_tokens == 0 {
        return Err(Error::usage("--max-tokens must be at least 1"));
    }
    if args.n == Some(0) {
        return Err(Error::usage("-n must be at least 1"));
    }
    if args.temperature.is_some_and(|t| t <= 0.0) {
        return Err(Error::usage(
            "--temperature must be above 0; leave it out for the most probable tokens",
        ));
    }
    let mut options = AskOptions::default();
    options.max_tokens = args.max_tokens;
    options.greedy = args.temperature.is_none();
    options.temperature = args.temperature.map(f64::from);
    options.top_p = args.top_p.map(f64::from);
    options.seed = Some(args.seed);
    Ok(options)
}
