//! How fast a model is, and how far from what the machine could do.
//!
//! Every case is the code that users run, timed. Bytes of weights a second are held against this
//! machine's read bandwidth, operations a second against its matrix product, both measured in the
//! same run.

mod decode;
mod depth;
mod flop;
mod generate;
mod growth;
mod machine;
mod nano;
mod plot;
mod report;
mod timing;
mod tower;
mod train;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use serde::Serialize;
use timing::Effort;
use vila_u_kernels::{BLOCK, BlockFormat};

pub use growth::{Growth, Point};
pub use machine::Machine;
pub use report::{Case, Report};

use crate::{
    Error, Result,
    checkpoint::{Component, Files, WeightDtype, config, weights::ComponentWeights},
    memory,
    model::{VilaU, VilaUConfig},
    parameters,
};

/// What belongs together; measured in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// The language model writes one token of two rows after 256 others.
    Decode,
    /// The depth transformer chooses the codes of one visual position, with guidance.
    Depth,
    /// Pixels to features, features to codes, features to pixels, one image at a time.
    Tower,
    /// Images and a video, from a caption to pixels.
    Generate,
    /// Optimizer steps of the nano recipes.
    Train,
    /// Loading the embedded model, and asking it.
    Nano,
    /// How its time and memory grow.
    Growth,
}

impl Suite {
    pub const ALL: [Self; 7] = [
        Self::Decode,
        Self::Depth,
        Self::Tower,
        Self::Generate,
        Self::Train,
        Self::Nano,
        Self::Growth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Depth => "depth",
            Self::Tower => "tower",
            Self::Generate => "generate",
            Self::Train => "train",
            Self::Nano => "nano",
            Self::Growth => "growth",
        }
    }

    /// The suites of that name; `all` is every one of them.
    pub fn parse(name: &str) -> Result<Vec<Self>> {
        match Self::ALL.iter().find(|suite| suite.name() == name) {
            Some(suite) => Ok(vec![*suite]),
            None if name == "all" => Ok(Self::ALL.to_vec()),
            None => Err(Error::usage(format!(
                "unknown suite {name}: choose one of {}, all",
                Self::ALL.map(Self::name).join(", ")
            ))),
        }
    }
}

/// What is measured: `decode`, `depth`, `tower` and `generate` are about a checkpoint, the others always about
/// the nano model.
#[derive(Clone, Debug)]
pub struct Subject {
    pub files: Files,
    pub device: Device,
    pub dtype: WeightDtype,
}

/// Tells what is under way, and is asked whether to go on.
pub struct Watch<'a> {
    pub say: &'a dyn Fn(&str),
    pub stop: Arc<AtomicBool>,
}

impl Watch<'_> {
    fn go_on(&self) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// Measures the machine, then the suites.
///
/// # Errors
/// When the checkpoint cannot be loaded, and [`Error::Interrupted`] when stopped.
pub fn run(subject: &Subject, suites: &[Suite], watch: &Watch) -> Result<Report> {
    (watch.say)("machine");
    let mut bench = Bench {
        subject,
        watch,
        machine: Machine::measure(&subject.device, subject.dtype, watch)?,
        cases: Vec::new(),
    };
    let mut growth = Vec::new();
    let mut peak_memory = BTreeMap::new();
    for suite in suites {
        watch.check()?;
        memory::forget_peak();
        match suite {
            Suite::Decode => decode::run(&mut bench)?,
            Suite::Depth => depth::run(&mut bench)?,
            Suite::Tower => tower::run(&mut bench)?,
            Suite::Generate => generate::run(&mut bench)?,
            Suite::Train => train::run(&mut bench)?,
            Suite::Nano => nano::run(&mut bench)?,
            Suite::Growth => growth = growth::run(&bench)?,
        }
        if let Some(bytes) = memory::peak(&subject.device) {
            peak_memory.insert(*suite, bytes);
        }
    }
    Ok(Report {
        dtype: subject.dtype.name().into(),
        machine: bench.machine,
        cases: bench.cases,
        growth,
        peak_memory,
    })
}

/// A run of suites under way.
struct Bench<'a> {
    subject: &'a Subject,
    watch: &'a Watch<'a>,
    machine: Machine,
    cases: Vec<Case>,
}

impl Bench<'_> {
    /// Times `work`; `rates` are what follows from the seconds that it takes.
    fn case(
        &mut self,
        suite: Suite,
        name: &str,
        work: impl FnMut() -> Result<()>,
        rates: impl Fn(f64) -> Vec<(&'static str, f64)>,
    ) -> Result<()> {
        self.case_of(Effort::FULL, suite, name, work, rates)
            .map(drop)
    }

    /// The same with another number of runs. Returns the seconds of the best one.
    fn case_of(
        &mut self,
        effort: Effort,
        suite: Suite,
        name: &str,
        work: impl FnMut() -> Result<()>,
        rates: impl Fn(f64) -> Vec<(&'static str, f64)>,
    ) -> Result<f64> {
        (self.watch.say)(&format!("{} {name}", suite.name()));
        let times = timing::times(&self.subject.device, self.watch, effort, work)?;
        self.add(suite, name, &times, rates);
        Ok(timing::best(&times))
    }

    /// Records the seconds of every run.
    fn add(
        &mut self,
        suite: Suite,
        name: &str,
        times: &[f64],
        rates: impl Fn(f64) -> Vec<(&'static str, f64)>,
    ) {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Some(best) = sorted.first() else {
            return;
        };
        let mut rates: BTreeMap<_, _> = rates(*best).into_iter().collect();
        for (rate, share, limit) in [
            ("gb_per_s", "of_read_bandwidth", self.machine.read_gb_per_s),
            (
                "gflop_per_s",
                "of_matmul_peak",
                self.machine.matmul_gflop_per_s,
            ),
        ] {
            if let Some(rate) = rates.get(rate) {
                rates.insert(share, rate / limit);
            }
        }
        self.cases.push(Case {
            suite,
            case: name.into(),
            ms: 1e3 * best,
            median_ms: 1e3 * sorted[sorted.len() / 2],
            runs: sorted.len(),
            rates,
        });
    }

    /// The sizes of the subject, and a model whose weights are not loaded yet.
    fn model(&self) -> Result<(VilaUConfig, VilaU)> {
        let config = config::read(&self.subject.files)?;
        let model = config.init(&self.subject.device);
        Ok((config, model))
    }

    fn load<M: Module>(&self, component: Component, module: &mut M) -> Result<()> {
        (self.watch.say)(&format!("loading {}", component.folder()));
        let opened = ComponentWeights::check(&self.subject.files, component, module)?;
        opened.load(module, self.subject.dtype)
    }
}

/// Bytes of a module's weights in memory.
fn weight_bytes<M: Module>(module: &M) -> usize {
    struct Sum(usize);
    impl parameters::Visitor for Sum {
        fn visit<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let (count, dtype) = (tensor.shape().num_elements(), tensor.dtype());
            self.0 += match BlockFormat::of(dtype) {
                Some(blocks) => count / BLOCK * blocks.block_bytes(),
                None => count * dtype.size(),
            };
        }
    }
    let mut sum = Sum(0);
    parameters::visit(module, &mut sum);
    sum.0
}
