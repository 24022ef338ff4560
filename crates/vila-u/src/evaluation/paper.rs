//! The numbers that the paper gives for its two models, to hold results against.

use serde::Serialize;

/// A number of the paper (arXiv 2409.04429v3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PaperNumber {
    /// What measures it here, or the benchmark where a scorer or a harness of its own does.
    pub evaluation: &'static str,
    pub metric: &'static str,
    /// Where the paper has it.
    pub source: &'static str,
    /// Of the model for 256 and for 384 pixels, in the paper's unit.
    pub px256: f64,
    pub px384: Option<f64>,
}

const fn number(
    evaluation: &'static str,
    metric: &'static str,
    source: &'static str,
    px256: f64,
    px384: Option<f64>,
) -> PaperNumber {
    PaperNumber {
        evaluation,
        metric,
        source,
        px256,
        px384,
    }
}

/// Tables 7 to 9 are ablations of models that were not released.
pub const PAPER: &[PaperNumber] = &[
    number("reconstruction", "rfid", "Table 1", 1.80, Some(1.25)),
    number("zero-shot", "top-1", "Table 1", 73.3, Some(78.0)),
    number("vqav2", "accuracy", "Table 2", 75.3, Some(79.4)),
    number("gqa", "accuracy", "Table 2", 58.3, Some(60.8)),
    number("textvqa", "accuracy", "Table 2", 48.3, Some(60.8)),
    number("pope", "accuracy", "Table 2", 83.9, Some(85.8)),
    number("mme", "perception", "Table 2", 1336.2, Some(1401.8)),
    number("seedbench", "accuracy", "Table 2", 56.3, Some(59.0)),
    number("mmvet", "score", "Table 2", 27.7, Some(33.5)),
    number("msvd-qa", "accuracy", "Table 3", 73.4, Some(75.3)),
    number("msrvtt-qa", "accuracy", "Table 3", 57.2, Some(60.0)),
    number("tgif-qa", "accuracy", "Table 3", 51.3, Some(51.9)),
    number("activitynet-qa", "accuracy", "Table 3", 51.6, Some(52.7)),
    number("mjhq-30k", "fid", "Table 4", 12.81, Some(7.69)),
    number("genai-bench", "basic", "Table 5", 0.76, None),
    number("genai-bench", "advanced", "Table 5", 0.64, None),
];

/// The paper's number of that name.
pub fn paper_number(evaluation: &str, metric: &str) -> Option<&'static PaperNumber> {
    PAPER
        .iter()
        .find(|number| number.evaluation == evaluation && number.metric == metric)
}
