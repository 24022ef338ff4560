//! `vila-u classify`: zero-shot classification with the text-aligned visual tokens.

use serde_json::{Map, json};
use vila_u::{Error, Result, media};

use super::pipeline;
use crate::{
    arguments::{Classify, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Classify, console: &Console) -> Result<()> {
    if args.labels.len() < 2 {
        return Err(Error::usage(
            "give at least two labels: --label \"a dog\" --label \"a cat\"",
        ));
    }
    let pipeline = pipeline(global, console).vision_only().build()?;
    let classifier = pipeline.zero_shot_classifier(&args.labels)?;
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for path in &args.images {
        let probabilities = classifier.classify(media::load(path)?)?;
        let mut ranked: Vec<_> = args.labels.iter().zip(probabilities).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        lines.push(format!("{}", path.display()));
        lines.extend(ranked.iter().map(|(l, p)| format!("  {p:.4}  {l}")));
        let probabilities: Map<_, _> = ranked
            .into_iter()
            .map(|(label, p)| (label.clone(), json!(p)))
            .collect();
        values.push(json!({"image": path.display().to_string(), "probabilities": probabilities}));
    }
    console.result(lines.join("\n"), json!(values))
}
