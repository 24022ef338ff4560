//! One image through the vision tower, there and back: products and convolutions are the limit.

use burn::tensor::{Distribution, Tensor};

use super::{Bench, Suite, flop};
use crate::{Result, checkpoint};

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let subject = bench.subject;
    (bench.watch.say)("loading vision_tower");
    let tower = checkpoint::load_tower(&subject.files, &subject.device, subject.dtype)?;
    let vision = &tower.siglip.vision_config;
    let size = vision.image_size;
    let range = Distribution::Uniform(-1.0, 1.0);
    let pixels = Tensor::<4>::random([1, 3, size, size], range, &subject.device);
    let features = tower.model.features(pixels.clone());
    let mut case = |part: &str, flop: usize, work: &dyn Fn()| {
        let gflop = flop as f64 / 1e9;
        bench.case(
            Suite::Tower,
            &format!("{part}_{size}"),
            || {
                work();
                Ok(())
            },
            |seconds| vec![("gflop", gflop), ("gflop_per_s", gflop / seconds)],
        )
    };
    let model = &tower.model;
    case("encode", flop::features(vision), &|| {
        model.features(pixels.clone());
    })?;
    case("quantize", flop::quantize(&tower.config), &|| {
        model.quantize(features.clone());
    })?;
    case("decode", flop::decode(&tower.config), &|| {
        model.decode(features.clone());
    })
}
