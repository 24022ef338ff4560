//! The embedded model inside this process: what a first try costs before it draws.

use burn::tensor::{Tensor, TensorData};

use super::{Bench, Suite};
use crate::{
    Result, assistant,
    checkpoint::{self, Checkpoint, Source},
    data::nano::{Scene, Split},
    generation::{sampling::Sampling, text::TextOptions},
    media::preprocess::normalize,
};

pub fn run(bench: &mut Bench) -> Result<()> {
    let subject = bench.subject;
    let load = || -> Result<Checkpoint> {
        let files = Source::Nano.files(|_, _| {})?;
        checkpoint::load(&files, &subject.device, subject.format)
    };
    bench.case(Suite::Nano, "start", || load().map(drop), |_| Vec::new())?;
    let checkpoint = load()?;
    let (model, tokenizer) = (&checkpoint.model, &checkpoint.tokenizer);
    let watch = bench.watch;

    let scene = Scene::sample(Split::HeldOut, 0, 0);
    let size = checkpoint.config.siglip.vision_config.image_size;
    let pixels = normalize(&scene.render(size as u32));
    let pixels = TensorData::new(pixels, [1, 3, size, size]);
    let pixels = Tensor::<4>::from_data(pixels, &subject.device);
    let options = TextOptions {
        sampling: Sampling::GREEDY,
        seed: 0,
        max_tokens: 1,
        stop: vec![tokenizer.end()],
    };
    bench.case(
        Suite::Nano,
        "first_token",
        || {
            let (question, image) = ("What is in this picture?", Some(pixels.clone()));
            let on_text = &mut |_: &str| watch.go_on();
            assistant::ask(model, tokenizer, question, image, true, &options, on_text).map(drop)
        },
        |_| Vec::new(),
    )
}
