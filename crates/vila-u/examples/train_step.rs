//! Training steps by hand, as a start for objectives of your own: the language model learns one caption.
//! `cargo run --release --example train_step`

use vila_u::burn::optim::{AdamWConfig, GradientsParams};
use vila_u::checkpoint::{self, Source, WeightDtype};
use vila_u::data::nano::{Scene, Split};
use vila_u::sequence::{SequenceLayout, templates};
use vila_u::teacher_forcing::{VisualTokens, losses};
use vila_u::text::conversation::Turn;
use vila_u::{Error, device, media};

fn main() -> vila_u::Result<()> {
    let device = device::select("cpu")?.autodiff();
    let files = Source::Nano.files(|_, _| {})?;
    let nano = checkpoint::load(&files, &device, WeightDtype::F32)?;
    let mut model = nano.model;

    // A conversation about one image: loss goes to the assistant's words.
    let scene = Scene::sample(Split::Train, 0, 0);
    let ask = Turn::human("<image>\nDescribe this picture.");
    let turns = [ask, Turn::assistant(scene.caption())];
    let samples = [templates::chat(&nano.tokenizer, &turns, 1, true)?];
    let layout = SequenceLayout::packed(&samples, model.image_tokens(), 512, None);
    let (size, mode) = (64, nano.config.root.training_resize());
    let pixels = media::to_tensor(&scene.render(64).into(), size, mode, &device)?;
    let visual = VisualTokens::encode(&model.vision_tower.rqvaesiglip, pixels);

    let mut optimizer = AdamWConfig::new().init();
    for step in 0..10 {
        let loss = losses(&model, &layout, Some(&visual))?.total();
        let loss = loss.ok_or_else(|| Error::failed("there is nothing to learn"))?;
        println!("step {step}: loss {}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model.llm);
        model.llm = optimizer.step(1e-4, model.llm, gradients);
    }
    Ok(())
}
