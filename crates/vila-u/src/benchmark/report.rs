//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Serialize;

use super::{Growth, Machine, Suite, plot};
use crate::{Result, media};

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    /// What the weights are held as.
    pub dtype: String,
    pub cases: Vec<Case>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub growth: Vec<Growth>,
    /// The most bytes resident during each suite, loading included; where the system tells, on the CPU.
    pub peak_memory: BTreeMap<Suite, u64>,
}

/// The runs of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub suite: Suite,
    pub case: String,
    /// Milliseconds of the best run.
    pub ms: f64,
    pub median_ms: f64,
    pub runs: usize,
    /// What follows from the best run, by name: `gb_per_s` of weights read, `gflop_per_s`, what was
    /// made a second, and shares of the machine's limits.
    #[serde(flatten)]
    pub rates: BTreeMap<&'static str, f64>,
}

impl Report {
    /// Writes a plot of every growth as a PNG file into an existing folder.
    pub fn save_plots(&self, folder: &Path) -> Result<()> {
        for growth in &self.growth {
            let file = folder.join(format!("growth-{}.png", growth.name));
            media::save_png(&file, &plot::growth(growth)?)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let machine = &self.machine;
        write!(f, "{}, {} threads", machine.processor, machine.threads)?;
        if let Some(instructions) = machine.instructions {
            write!(f, ", {instructions}")?;
        }
        write!(
            f,
            ": reads {:.1} GB/s, copies {:.1} GB/s, matrix product {:.0} GFLOP/s",
            machine.read_gb_per_s, machine.copy_gb_per_s, machine.matmul_gflop_per_s,
        )?;
        if let Some(rate) = machine.matmul_bf16_gflop_per_s {
            write!(f, ", with bf16 factors {rate:.0}")?;
        }
        writeln!(f, "\nweights as {}", self.dtype)?;
        let columns = ["suite", "case", "best ms", "median ms", "runs"];
        let [suite, case, best, median, runs] = columns;
        write!(f, "{suite:8} {case:16} {best:>10} {median:>10} {runs:>5}")?;
        for case in &self.cases {
            write!(
                f,
                "\n{:8} {:16} {:>10.3} {:>10.3} {:>5}",
                case.suite.name(),
                case.case,
                case.ms,
                case.median_ms,
                case.runs
            )?;
            for (name, value) in &case.rates {
                match name.strip_prefix("of_") {
                    Some(limit) => {
                        let limit = limit.replace('_', " ");
                        write!(f, "  {:.0} % of {limit}", 100.0 * value)?;
                    }
                    None => write!(f, "  {} {value:.2}", name.replace("_per_s", "/s"))?,
                }
            }
        }
        for growth in &self.growth {
            write!(f, "\n{:10} {}", growth.name, growth.of)?;
            if let Some(exponent) = growth.exponent() {
                write!(f, ", at last time ~ n^{exponent:.2}")?;
            }
            for point in &growth.points {
                let memory = point
                    .peak_memory
                    .map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
                let ms = 1e3 * point.seconds;
                write!(f, "\n{:>10.1} {ms:>10.2} ms {memory:>8.1} MB", point.at)?;
            }
        }
        for (suite, bytes) in &self.peak_memory {
            let gigabytes = *bytes as f64 / 1e9;
            write!(f, "\n{:8} peak memory {gigabytes:.2} GB", suite.name())?;
        }
        Ok(())
    }
}
