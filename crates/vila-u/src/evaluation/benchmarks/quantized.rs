//! `eval quantized`: what weights in fewer bits cost.
//!
//! The same held-out scenes of the nano world go through the model in f32 and in every smaller format: captions
//! are predicted from pictures and codes from captions, teacher-forced, so that one wrong choice does not
//! spoil the next.

use std::fmt;

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;
use vila_u_kernels::cross_entropy;

use crate::{
    Error, Result,
    checkpoint::{self, Checkpoint, Files, WeightDtype},
    data::nano::{Scene, Split},
    evaluation::{
        metrics::{Estimate, share},
        record::{Interval, Metric},
    },
    media::preprocess::normalize,
    sequence::{SequenceLayout, templates},
    teacher_forcing::{Predictions, VisualTokens, predictions},
    text::conversation::Turn,
};

/// The formats measured against f32.
const FORMATS: [WeightDtype; 3] = [WeightDtype::BF16, WeightDtype::Q8_0, WeightDtype::Q4_0];

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub formats: Vec<Cost>,
}

impl Report {
    /// Everything that was measured, by names such as `q8_0.text.perplexity`.
    pub fn metrics(&self) -> Vec<Metric> {
        let of = |cost: &Cost| {
            [("text", &cost.text), ("codes", &cost.codes)].map(|(tokens, quality)| {
                let name = |what| format!("{}.{tokens}.{what}", cost.format);
                let n = quality.agreement.n;
                [
                    Metric::plain(name("perplexity"), quality.perplexity, n),
                    Metric::estimate(name("agreement"), quality.agreement, Interval::Wilson),
                    Metric::plain(name("error"), quality.error, n),
                ]
            })
        };
        self.formats.iter().flat_map(of).flatten().collect()
    }
}

/// What a format costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub format: &'static str,
    /// Bytes of the weights on the CPU.
    pub memory: u64,
    pub text: Quality,
    pub codes: Quality,
}

/// How well tokens are predicted.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// `exp` of the mean of `-log p`.
    pub perplexity: f64,
    /// How often the likeliest token is the one in f32.
    pub agreement: Estimate,
    /// Norm of the difference of the logits to those in f32, over their norm.
    pub error: f64,
}

/// A sample, and what it leads to in f32.
struct Reference {
    layout: SequenceLayout,
    visual: VisualTokens,
    predictions: Predictions,
}

/// Measures on `n` held-out scenes. One model is in memory at a time.
pub fn run(
    files: &Files,
    n: usize,
    seed: u64,
    on_progress: &mut dyn FnMut(&str, usize, usize) -> bool,
) -> Result<Report> {
    if n == 0 {
        return Err(Error::usage("an evaluation needs at least one scene"));
    }
    let info = checkpoint::info(files)?;
    if info.is_quantized() {
        return Err(Error::usage(
            "this model is quantized already: give the one it was made from",
        ));
    }
    let mut step = |format: WeightDtype, done: usize| {
        if on_progress(format.name(), done, n) {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    };
    let whole = checkpoint::load(files, &Device::flex(), WeightDtype::F32)?;
    let mut references = Vec::with_capacity(2 * n);
    for index in 0..n {
        references.extend(reference(&whole, seed, index as u64)?);
        step(WeightDtype::F32, index + 1)?;
    }
    drop(whole);
    let mut formats = vec![cost(
        WeightDtype::F32,
        info.memory.f32,
        &references,
        |_, sample| Ok(sample.predictions.clone()),
    )?];
    for format in FORMATS {
        let model = checkpoint::load(files, &Device::flex(), format)?.model;
        let memory = match format {
            WeightDtype::Q8_0 => info.memory.q8_0,
            WeightDtype::Q4_0 => info.memory.q4_0,
            _ => info.memory.bf16,
        };
        formats.push(cost(format, memory, &references, |index, sample| {
            step(format, index / 2 + 1)?;
            predictions(&model, &sample.layout, Some(&sample.visual))
        })?);
    }
    Ok(Report { formats })
}

/// A caption to generate an image from, and the same picture to be described.
fn reference(whole: &Checkpoint, seed: u64, index: u64) -> Result<[Reference; 2]> {
    let (model, config) = (&whole.model, &whole.config);
    let size = config.siglip.vision_config.image_size;
    let scene = Scene::sample(Split::Test, seed, index);
    let pixels = TensorData::new(normalize(&scene.render(size as u32)), [1, 3, size, size]);
    let pixels = Tensor::from_data(pixels, &Device::flex());
    let visual = VisualTokens::encode(&model.vision_tower.rqvaesiglip, pixels);
    let caption = scene.caption();
    let generate = [Turn::human(&caption), Turn::assistant("<image>")];
    let describe = [
        Turn::human("Describe this picture."),
        Turn::assistant(&caption),
    ];
    let reference = |turns: &[Turn]| {
        let sample = templates::chat(&whole.tokenizer, turns, 1, true)?;
        let samples = std::slice::from_ref(&sample);
        let length = config.llm.max_length();
        let layout = SequenceLayout::packed(samples, model.image_tokens(), length, None);
        Ok(Reference {
            predictions: predictions(model, &layout, Some(&visual))?,
            visual: visual.clone(),
            layout,
        })
    };
    Ok([reference(&generate)?, reference(&describe)?])
}

fn cost(
    format: WeightDtype,
    memory: u64,
    references: &[Reference],
    mut predict: impl FnMut(usize, &Reference) -> Result<Predictions>,
) -> Result<Cost> {
    let (mut text, mut codes) = (Sums::default(), Sums::default());
    for (index, sample) in references.iter().enumerate() {
        let Predictions {
            text: words,
            visual,
        } = predict(index, sample)?;
        text.add(words, &sample.predictions.text)?;
        codes.add(visual, &sample.predictions.visual)?;
    }
    Ok(Cost {
        format: format.name(),
        memory,
        text: text.quality(),
        codes: codes.quality(),
    })
}

#[derive(Default)]
struct Sums {
    surprise: f64,
    agreed: usize,
    count: usize,
    /// Squares of the differences of logits, and of the logits.
    difference: f64,
    norm: f64,
}

type Logits = Option<(Tensor<2>, Tensor<1, Int>)>;

impl Sums {
    fn add(&mut self, found: Logits, wanted: &Logits) -> Result<()> {
        let (Some((found, targets)), Some((wanted, _))) = (found, wanted) else {
            return Ok(());
        };
        let best = |logits: &Tensor<2>| logits.clone().argmax(1);
        let same = best(&found).equal(best(wanted)).int().sum();
        let difference = (found.clone() - wanted.clone()).square().sum();
        let norm = wanted.clone().square().sum();
        let surprise = cross_entropy(found, targets.clone()).sum();
        self.count += targets.dims()[0];
        self.agreed += same.into_scalar::<i64>() as usize;
        self.surprise += f64::from(surprise.into_scalar::<f32>());
        self.difference += f64::from(difference.into_scalar::<f32>());
        self.norm += f64::from(norm.into_scalar::<f32>());
        if self.surprise.is_finite() && self.difference.is_finite() {
            Ok(())
        } else {
            Err(Error::failed("the model's logits are not numbers"))
        }
    }

    fn quality(&self) -> Quality {
        Quality {
            perplexity: (self.surprise / self.count as f64).exp(),
            agreement: share(self.agreed, self.count),
            error: (self.difference / self.norm).sqrt(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:6} {:>10}   {:^34}   {:^34}",
            "format", "memory", "text", "codes"
        )?;
        let columns = format!("{:>11} {:>10} {:>11}", "perplexity", "agreement", "error");
        write!(f, "{:6} {:>10}   {columns}   {columns}", "", "MB")?;
        for cost in &self.formats {
            let quality = |q: &Quality| {
                format!(
                    "{:11.4} {:8.2} % {:11.5}",
                    q.perplexity,
                    100.0 * q.agreement.value,
                    q.error
                )
            };
            let memory = cost.memory as f64 / 1e6;
            let (text, codes) = (quality(&cost.text), quality(&cost.codes));
            write!(f, "\n{:6} {memory:10.1}   {text}   {codes}", cost.format)?;
        }
        let n = self.formats.first();
        let n = n.map_or((0, 0), |cost| {
            (cost.text.agreement.n, cost.codes.agreement.n)
        });
        write!(f, "\non {} words and {} codes", n.0, n.1)
    }
}
