//! `vila-u score`: teacher-forced losses, sample by sample.

use vila_u::{Error, Result, data};

use super::{pipeline, to_json};
use crate::{
    arguments::{Global, Score},
    console::Console,
};

pub fn run(global: &Global, args: &Score, console: &Console) -> Result<()> {
    let records = data::read_jsonl(&args.file)?;
    let pipeline = pipeline(global, console).build()?;
    let total = records.len() as u64;
    for (index, record) in records.into_iter().enumerate() {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        let scored = pipeline.score(&record)?;
        let value = to_json(&scored)?;
        let shown = |loss: Option<f64>, count: usize, what: &str| match loss {
            Some(loss) => format!("  {what} {loss:.4} over {count}"),
            None => String::new(),
        };
        let line = format!(
            "{}{}{}",
            scored.id,
            shown(scored.score.text_loss, scored.score.text_tokens, "text"),
            shown(
                scored.score.visual_loss,
                scored.score.visual_tokens,
                "visual"
            ),
        );
        console.result(line, value)?;
        console.progress("scoring", index as u64 + 1, total, "");
    }
    Ok(())
}
