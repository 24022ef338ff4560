//! The numbers that the paper gives for its two models, to hold results against. docs/evaluation.md has those that scorers
//! and harnesses of other projects measure as well.

use serde::Serialize;

/// A number of the paper (arXiv 2409.04429v3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PaperNumber {
    /// What measures it here.
    pub evaluation: &'static str,
    pub metric: &'static str,
    /// Where the paper has it, and on which data.
    pub source: &'static str,
    /// Of the models for 256 and for 384 pixels. Accuracies are parts of one.
    pub px256: f64,
    pub px384: f64,
}

const fn number(
    evaluation: &'static str,
    metric: &'static str,
    source: &'static str,
    [px256, px384]: [f64; 2],
) -> PaperNumber {
    PaperNumber {
        evaluation,
        metric,
        source,
        px256,
        px384,
    }
}

/// Tables 7 to 9 are of models that were not released.
pub const PAPER: &[PaperNumber] = &[
    number("reconstruction", "rfid", "Table 1, ImageNet", [1.80, 1.25]),
    number("zero-shot", "top-1", "Table 1, ImageNet", [0.733, 0.780]),
    number("msvd-qa", "accuracy", "Table 3", [0.734, 0.753]),
    number("msrvtt-qa", "accuracy", "Table 3", [0.572, 0.600]),
    number("tgif-qa", "accuracy", "Table 3", [0.513, 0.519]),
    number("activitynet-qa", "accuracy", "Table 3", [0.516, 0.527]),
    number("fid", "fid", "Table 4, MJHQ-30K", [12.81, 7.69]),
];

/// The paper's number of that name.
pub fn paper_number(evaluation: &str, metric: &str) -> Option<&'static PaperNumber> {
    PAPER
        .iter()
        .find(|number| number.evaluation == evaluation && number.metric == metric)
}
