//! Two results side by side: what differs in how they were made, and whether they differ by more than chance.

use std::{collections::HashMap, fmt, path::Path};

use serde::Serialize;
use serde_json::Value;

use super::{
    metrics::{Estimate, mean},
    paper::{PaperNumber, paper_number},
    record::{EvaluationRecord, Metric},
    sample_log::{Sample, SampleLog},
};
use crate::{Error, Result};

/// What [`compare`] found.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub evaluation: String,
    /// What was not the same in both: `model`, `data`, `settings.cfg`, ...
    pub differs: Vec<String>,
    pub metrics: Vec<MetricComparison>,
}

/// A metric in both results.
#[derive(Debug, Serialize)]
pub struct MetricComparison {
    pub name: String,
    pub a: Metric,
    pub b: Metric,
    /// `b - a` with its 95 % interval, where one can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paper: Option<PaperNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    #[serde(flatten)]
    pub estimate: Estimate,
    pub method: Method,
    /// Whether the interval is on one side of 0.
    pub significant: bool,
}

/// How the interval of a difference was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Bootstrap of the differences of the samples that both have.
    Paired,
    /// From the two intervals, as if the samples were independent (MOVER: Zou and Donner 2008; for shares Newcombe
    /// 1998, method 10).
    Unpaired,
}

/// Compares the results in two folders, or two `result.json`.
///
/// A usage error when they are of different evaluations.
pub fn compare(a: &Path, b: &Path) -> Result<Comparison> {
    let (left, right) = (EvaluationRecord::read(a)?, EvaluationRecord::read(b)?);
    if left.evaluation != right.evaluation {
        return Err(Error::usage(format!(
            "{} is a result of `{}`, {} of `{}`: compare results of one evaluation",
            a.display(),
            left.evaluation,
            b.display(),
            right.evaluation
        )));
    }
    let samples = (samples_of(a)?, samples_of(b)?);
    let metrics = left.metrics.iter().filter_map(|metric| {
        let other = right.metric(&metric.name)?;
        Some(MetricComparison {
            name: metric.name.clone(),
            difference: paired(&metric.name, &samples.0, &samples.1)
                .or_else(|| unpaired(metric, other)),
            a: metric.clone(),
            b: other.clone(),
            paper: paper_number(&left.evaluation, &metric.name).copied(),
        })
    });
    Ok(Comparison {
        metrics: metrics.collect(),
        differs: differs(&left, &right),
        evaluation: left.evaluation,
    })
}

/// The samples beside a result.
fn samples_of(result: &Path) -> Result<Vec<Sample>> {
    if result.is_dir() {
        SampleLog::read(result)
    } else {
        SampleLog::read(result.parent().unwrap_or(Path::new("")))
    }
}

fn differs(a: &EvaluationRecord, b: &EvaluationRecord) -> Vec<String> {
    let mut names = Vec::new();
    let content = |identity: &super::record::Identity| identity.sha256.clone();
    let mut note = |same: bool, name: &str| {
        if !same {
            names.push(name.to_string());
        }
    };
    note(
        a.model.as_ref().map(content) == b.model.as_ref().map(content),
        "model",
    );
    note(
        a.data.iter().map(content).eq(b.data.iter().map(content)),
        "data",
    );
    note(a.version == b.version, "version");
    for key in a.settings.keys().chain(b.settings.keys()) {
        let name = format!("settings.{key}");
        if a.settings.get(key) != b.settings.get(key) && !names.contains(&name) {
            names.push(name);
        }
    }
    for key in a.definitions.keys().chain(b.definitions.keys()) {
        let name = format!("definitions.{key}");
        if a.definitions.get(key) != b.definitions.get(key) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// From the samples that both have: nothing where they have none in common.
fn paired(metric: &str, a: &[Sample], b: &[Sample]) -> Option<Difference> {
    let value = |sample: &Sample| match sample.values.get(metric)? {
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        value => value.as_f64(),
    };
    let of_a = a
        .iter()
        .filter_map(|sample| Some((sample.id.as_str(), value(sample)?)));
    let of_a: HashMap<&str, f64> = of_a.collect();
    let differences: Vec<f64> = (b.iter())
        .filter_map(|sample| Some(value(sample)? - of_a.get(sample.id.as_str())?))
        .collect();
    (!differences.is_empty()).then(|| difference(mean(&differences), Method::Paired))
}

fn unpaired(a: &Metric, b: &Metric) -> Option<Difference> {
    let value = b.value - a.value;
    let below = (b.value - b.low?).hypot(a.high? - a.value);
    let above = (b.high? - b.value).hypot(a.value - a.low?);
    let estimate = Estimate {
        value,
        low: value - below,
        high: value + above,
        n: a.n.min(b.n),
    };
    Some(difference(estimate, Method::Unpaired))
}

fn difference(estimate: Estimate, method: Method) -> Difference {
    Difference {
        significant: estimate.low > 0.0 || estimate.high < 0.0,
        estimate,
        method,
    }
}

impl fmt::Display for Comparison {
    /// A line of what differs, then one for each metric.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.differs.is_empty() {
            writeln!(f, "{}: the same model, data and settings", self.evaluation)?;
        } else {
            writeln!(
                f,
                "{}: not the same: {}",
                self.evaluation,
                self.differs.join(", ")
            )?;
        }
        for (at, metric) in self.metrics.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{:24} {:>10.4} {:>10.4}",
                metric.name, metric.a.value, metric.b.value
            )?;
            if let Some(Difference {
                estimate,
                method,
                significant,
            }) = metric.difference
            {
                let Estimate {
                    value,
                    low,
                    high,
                    n,
                } = estimate;
                let verdict = if significant {
                    "a difference"
                } else {
                    "may be chance"
                };
                let method = match method {
                    Method::Paired => "paired",
                    Method::Unpaired => "unpaired",
                };
                write!(
                    f,
                    "   {value:+.4} [{low:+.4}, {high:+.4}], {method}, n = {n}: {verdict}"
                )?;
            }
            if let Some(paper) = metric.paper {
                let PaperNumber {
                    source,
                    px256,
                    px384,
                    ..
                } = paper;
                write!(
                    f,
                    "   paper, {source}: {px256} at 256 px, {px384} at 384 px"
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::evaluation::{metrics::share, record::Interval};

    /// A folder with the result of samples that were right or not.
    fn result(right: &[bool], first: usize, logged: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut record = EvaluationRecord::new("zero-shot");
        let estimate = share(right.iter().filter(|right| **right).count(), right.len());
        record
            .metrics
            .push(Metric::estimate("top-1", estimate, Interval::Wilson));
        record.write(folder.path()).unwrap();
        if logged {
            let mut log = SampleLog::create(folder.path()).unwrap();
            for (at, right) in right.iter().enumerate() {
                let values = Map::from_iter([("top-1".to_string(), Value::Bool(*right))]);
                let id = (first + at).to_string();
                log.append(&Sample { id, values }).unwrap();
            }
        }
        folder
    }

    fn difference_of(a: &tempfile::TempDir, b: &tempfile::TempDir) -> Difference {
        let comparison = compare(a.path(), b.path()).unwrap();
        assert!(comparison.differs.is_empty(), "{comparison}");
        assert!(comparison.to_string().contains("0.733"), "{comparison}");
        comparison.metrics[0].difference.unwrap()
    }

    #[test]
    fn pairs_see_what_intervals_do_not() {
        // Of 100 samples both miss 40, and the second alone gets 6 more right.
        let a: Vec<bool> = (0..100).map(|at| at < 54).collect();
        let b: Vec<bool> = (0..100).map(|at| at < 60).collect();
        let paired = difference_of(&result(&a, 0, true), &result(&b, 0, true));
        assert_eq!((paired.method, paired.significant), (Method::Paired, true));
        assert!((paired.estimate.value - 0.06).abs() < 1e-12);
        let unpaired = difference_of(&result(&a, 0, false), &result(&b, 0, true));
        assert_eq!(
            (unpaired.method, unpaired.significant),
            (Method::Unpaired, false)
        );
        // Other samples are no pairs.
        let others = difference_of(&result(&a, 0, true), &result(&b, 500, true));
        assert_eq!(others.method, Method::Unpaired);
    }

    #[test]
    fn independent_shares_have_newcombe_s_interval() {
        // Newcombe 1998, table II: 56/70 - 48/80, method 10: 0.0524 to 0.3339.
        let shares = [share(48, 80), share(56, 70)];
        let [a, b] = shares.map(|share| Metric::estimate("accuracy", share, Interval::Wilson));
        let Estimate { low, high, .. } = unpaired(&a, &b).unwrap().estimate;
        assert!(
            (low - 0.0524).abs() < 5e-5 && (high - 0.3339).abs() < 5e-5,
            "{low} {high}"
        );
    }

    #[test]
    fn other_evaluations_are_refused() {
        let a = result(&[true], 0, false);
        let b = tempfile::tempdir().unwrap();
        EvaluationRecord::new("fid").write(b.path()).unwrap();
        assert!(matches!(compare(a.path(), b.path()), Err(Error::Usage(_))));
    }
}
