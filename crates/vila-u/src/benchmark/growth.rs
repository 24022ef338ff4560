//! How time and memory grow with what is asked for: images, prompt, frames, codes of a position, and
//! with the size of the model. On the nano model and on models of its kind with random weights.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use serde::Serialize;

use super::{
    Bench,
    timing::{self, Effort},
};
use crate::{
    Result,
    checkpoint::{self, Checkpoint, Source},
    generation::{
        batch::{DecodeBatch, Prompt},
        chat::{generate_images, image_prompt},
        sampling::Sampling,
        visual::{self, CodeGenerator, GUIDANCE, VisualOptions},
    },
    language::LlamaConfig,
    memory,
};

/// How cost depends on one quantity, the rest staying the same.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// A word for tables and file names.
    pub name: &'static str,
    /// The quantity.
    pub of: &'static str,
    /// In the order of `at`.
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// How much of the quantity.
    pub at: f64,
    /// Of the best run.
    pub seconds: f64,
    /// The most bytes resident; where the system tells, on the CPU.
    pub peak_memory: Option<u64>,
}

impl Growth {
    /// The exponent `e` of `seconds ~ at^e` between the last two points.
    pub fn exponent(&self) -> Option<f64> {
        let [.., before, last] = self.points[..] else {
            return None;
        };
        Some((last.seconds / before.seconds).ln() / (last.at / before.at).ln())
    }
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Growth>> {
    let subject = bench.subject;
    let files = Source::Nano.files(|_, _| {})?;
    let nano = checkpoint::load(&files, &subject.device, subject.dtype)?;
    // From the smallest to the largest: what the allocator keeps of one does not hide the next.
    Ok(vec![
        depth(bench, &nano)?,
        frames(bench, &nano)?,
        prompt(bench, &nano)?,
        images(bench, &nano)?,
        parameters(bench, &nano.config.llm)?,
    ])
}

/// One point; those of a curve are measured from the cheapest to the dearest.
fn point(bench: &Bench, at: f64, work: impl FnMut() -> Result<()>) -> Result<Point> {
    memory::forget_peak();
    let times = timing::times(&bench.subject.device, bench.watch, Effort::SHORT, work)?;
    Ok(Point {
        at,
        seconds: timing::best(&times),
        peak_memory: memory::peak(&bench.subject.device),
    })
}

fn measure(
    bench: &Bench,
    (name, of): (&'static str, &'static str),
    sizes: &[usize],
    mut one: impl FnMut(usize) -> Result<Point>,
) -> Result<Growth> {
    let mut points = Vec::new();
    for size in sizes {
        (bench.watch.say)(&format!("growth {name} {size}"));
        points.push(one(*size)?);
    }
    Ok(Growth { name, of, points })
}

fn options(checkpoint: &Checkpoint) -> VisualOptions {
    VisualOptions {
        guidance: GUIDANCE,
        ..checkpoint.generation.visual(0)
    }
}

const CAPTION: &str = "a red heart on a blue background";

fn images(bench: &Bench, nano: &Checkpoint) -> Result<Growth> {
    let options = options(nano);
    let prompt = image_prompt(&nano.tokenizer, CAPTION)?;
    measure(
        bench,
        ("images", "images generated together"),
        &[1, 2, 4, 8, 16, 32],
        |n| {
            point(bench, n as f64, || {
                let prompts = vec![prompt.clone(); n];
                generate_images(
                    &nano.model,
                    &nano.tokenizer,
                    &prompts,
                    &options,
                    &mut |_| bench.watch.go_on(),
                )
                .map(drop)
            })
        },
    )
}

fn prompt(bench: &Bench, nano: &Checkpoint) -> Result<Growth> {
    let llm = &nano.model.llm;
    let sizes = [64, 128, 256, 512, 1024, 2048];
    measure(
        bench,
        ("prompt", "positions read before the first token"),
        &sizes,
        |length| {
            let embeds = normal(
                [1, length, nano.config.llm.hidden_size],
                &bench.subject.device,
            );
            point(bench, length as f64, || {
                let prompt = Prompt::new(embeds.clone(), vec![length])?;
                DecodeBatch::prefill(llm, prompt, 0);
                Ok(())
            })
        },
    )
}

fn frames(bench: &Bench, nano: &Checkpoint) -> Result<Growth> {
    let options = options(nano);
    let prompts = [image_prompt(&nano.tokenizer, CAPTION)?];
    measure(
        bench,
        ("frames", "frames of a video"),
        &[1, 2, 4, 8, 16],
        |frames| {
            point(bench, frames as f64, || {
                let unconditional = &prompts[0];
                visual::generate(
                    &nano.model,
                    &prompts,
                    unconditional,
                    frames,
                    &options,
                    &mut |_| bench.watch.go_on(),
                )
                .map(drop)
            })
        },
    )
}

fn depth(bench: &Bench, nano: &Checkpoint) -> Result<Growth> {
    let device = &bench.subject.device;
    let hidden = normal::<2>([2, nano.config.llm.hidden_size], device);
    let options = VisualOptions {
        sampling: Sampling::VISUAL,
        ..options(nano)
    };
    let sizes = [1, 2, 4, 8, 16, 32];
    measure(bench, ("depth", "codes of a position"), &sizes, |depth| {
        let mut config = nano.config.clone();
        config.vision_tower.rqvaesiglip.code_shape[2] = depth;
        config.vision_tower.rqtransformer.block_size[2] = depth;
        let model = config.init(device);
        let mut generator = CodeGenerator::new(&model, 1, &options);
        point(bench, depth as f64, || {
            generator.visual_token(hidden.clone()).map(drop)
        })
    })
}

fn parameters(bench: &Bench, nano: &LlamaConfig) -> Result<Growth> {
    let device = &bench.subject.device;
    let widths = [256, 512, 768, 1024, 1536, 2048];
    let quantity = ("parameters", "million parameters of the language model");
    measure(bench, quantity, &widths, |width| {
        let config = LlamaConfig {
            hidden_size: width,
            intermediate_size: width * 11 / 4,
            num_attention_heads: width / nano.head_dim(),
            ..nano.clone()
        };
        let llm = config.init(device);
        let mut cache = llm.cache(2, 2);
        let embeds = normal::<3>([2, 1, width], device);
        let positions = Tensor::<2, Int>::from_data(TensorData::from([[0i64]; 2]), device);
        let millions = burn::module::Module::num_params(&llm) as f64 / 1e6;
        point(bench, millions, || {
            cache.clear();
            llm.forward(embeds.clone(), positions.clone(), None, Some(&mut cache));
            Ok(())
        })
    })
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
