//! The embedded model inside this process: what a first try costs before an answer begins.

use burn::tensor::{Tensor, TensorData};

use super::{Bench, Suite};
use crate::{
    Result,
    checkpoint::{self, Checkpoint, Source},
    data::nano::{Scene, Split},
    generation::{
        chat::{self, AnswerEvent, AnswerOptions, VisualInputs},
        sampling::Sampling,
        text::TextOptions,
        visual::VisualOptions,
    },
    media::preprocess::normalize,
};

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let subject = bench.subject;
    let load = || -> Result<Checkpoint> {
        let files = Source::Nano.files(|_, _| {})?;
        checkpoint::load(&files, &subject.device, subject.dtype)
    };
    bench.case(Suite::Nano, "start", || load().map(drop), |_| Vec::new())?;
    let checkpoint = load()?;
    let (model, tokenizer) = (&checkpoint.model, &checkpoint.tokenizer);
    let watch = bench.watch;

    let scene = Scene::sample(Split::Test, 0, 0);
    let size = checkpoint.config.siglip.vision_config.image_size;
    let pixels = normalize(&scene.render(size as u32));
    let pixels = TensorData::new(pixels, [1, 3, size, size]);
    let pixels = Tensor::<4>::from_data(pixels, &subject.device);
    let options = AnswerOptions {
        text: TextOptions {
            sampling: Sampling::GREEDY,
            seed: 0,
            max_tokens: 1,
            stop: vec![tokenizer.eos_token_id()],
        },
        visual: VisualOptions {
            guidance: 1.0,
            sampling: Sampling::GREEDY,
            seed: 0,
            first: 0,
        },
        frames: checkpoint.config.root.num_video_frames,
        system: true,
    };
    bench.case(
        Suite::Nano,
        "first_token",
        || {
            let question = "What is in this picture?";
            let inputs = VisualInputs {
                images: vec![pixels.clone()],
                videos: Vec::new(),
            };
            let on_event = &mut |_: AnswerEvent| watch.go_on();
            chat::answer(model, tokenizer, question, inputs, &options, on_event).map(drop)
        },
        |_| Vec::new(),
    )
}
