//! Replies to numbers: by a rule, or by a judge.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{AnswerMetric, Item, Judge, OnProgress, Replies, judge::Case};
use crate::{
    Error, Result,
    evaluation::{
        metrics::{mean, share},
        record::{EvaluationRecord, Interval, Metric},
    },
};

/// The folder of a judge's verdicts in that of the replies.
const VERDICTS: &str = "judge";
const NO_VERDICT: &str = "the judge gave no verdict";

/// Scores the replies by a rule that has checked the items: adds the metrics to the record, and every reply's numbers to
/// the log in `folder`.
pub fn by_metric(
    metric: AnswerMetric,
    items: &[Item],
    replies: Replies,
    folder: &Path,
    record: &mut EvaluationRecord,
) -> Result<()> {
    let given = items.iter().zip(&replies.replies);
    let numbers = given.map(|(item, reply)| Some(metric.score(item, reply.as_ref()?)));
    let numbers: Vec<Option<Map<String, Value>>> = numbers.collect();
    let scores: Vec<_> = numbers.iter().flatten().cloned().collect();
    record.metrics = metric.summary(&scores);
    let definition = metric.definition().to_string();
    record.definitions.insert("accuracy".into(), definition);
    record.skipped.clone_from(&replies.skipped);
    replies.add(items, &numbers, folder)
}

/// The same by a judge. What it says is kept in a folder beside the log.
///
/// Errors when the judge cannot be reached or gave no verdict at all; [`Error::Interrupted`] when `on_progress` stops it.
pub fn by_judge(
    judge: &Judge,
    items: &[Item],
    replies: Replies,
    folder: &Path,
    record: &mut EvaluationRecord,
    on_progress: OnProgress,
) -> Result<()> {
    let answers: Vec<String> = items.iter().map(|item| item.answers.join(" or ")).collect();
    let given = items.iter().zip(&answers).zip(&replies.replies);
    let cases: Vec<Case> = given
        .filter_map(|((item, answer), reply)| {
            Some(Case {
                question: &item.question,
                answer,
                prediction: reply.as_ref()?,
            })
        })
        .collect();
    let judged = judge.judge(&cases, &folder.join(VERDICTS), on_progress)?;
    let verdicts: Vec<_> = judged.verdicts.iter().flatten().collect();
    if verdicts.is_empty() {
        return Err(Error::failed(format!(
            "{NO_VERDICT} in {} replies: try another model with --judge-model",
            judged.nonsense
        )));
    }
    let right = verdicts.iter().filter(|verdict| verdict.right).count();
    let scores: Vec<f64> = verdicts
        .iter()
        .map(|verdict| verdict.score.floor())
        .collect();
    record.metrics = vec![
        Metric::estimate("accuracy", share(right, verdicts.len()), Interval::Wilson),
        Metric::estimate("score", mean(&scores), Interval::Bootstrap),
    ];
    for (name, definition) in [
        (
            "accuracy",
            "replies that the judge calls right, of those that it gave a verdict on, as in Video-ChatGPT's evaluation",
        ),
        (
            "score",
            "mean of the judge's scores, 0 to 5, whose fractions are cut off as in Video-ChatGPT's evaluation",
        ),
    ] {
        record.definitions.insert(name.into(), definition.into());
    }
    let mut settings = judge.settings();
    settings["nonsense_replies"] = judged.nonsense.into();
    record.settings.insert("judge".into(), settings);
    record.skipped.clone_from(&replies.skipped);
    let without = cases.len() - verdicts.len();
    if without > 0 {
        record.skipped.insert(NO_VERDICT.into(), without);
    }
    let mut judged = judged.verdicts.into_iter();
    let numbers = replies.replies.iter().map(|reply| {
        let verdict = reply.as_ref().and_then(|_| judged.next())??;
        let accuracy = f64::from(u8::from(verdict.right));
        Some(Map::from_iter([
            ("accuracy".to_string(), json!(accuracy)),
            ("score".to_string(), json!(verdict.score.floor())),
        ]))
    });
    let numbers: Vec<_> = numbers.collect();
    replies.add(items, &numbers, folder)
}
