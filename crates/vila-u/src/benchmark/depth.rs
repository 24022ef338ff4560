//! The codes of one visual position: the depth transformer is read once for each of them.

use burn::tensor::{Distribution, Tensor};

use super::{Bench, Suite, weight_bytes};
use crate::{
    Result,
    checkpoint::{Component, config::GenerationConfig},
    generation::visual::CodeGenerator,
};

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (config, mut model) = bench.model()?;
    bench.load(Component::VisionTower, &mut model.vision_tower)?;
    let depth = config.vision_tower.rqtransformer.depth();
    let width = config.llm.hidden_size;
    let normal = Distribution::Normal(0.0, 1.0);
    let hidden = Tensor::<2>::random([2, width], normal, &bench.subject.device);
    let options = GenerationConfig::default().visual(0);
    let mut generator = CodeGenerator::new(&model, 1, &options);
    let transformer = &model.vision_tower.rqtransformer;
    let step = weight_bytes(&transformer.head_transformer)
        + weight_bytes(&transformer.classifier_mlp.linear);
    bench.case(
        Suite::Depth,
        &format!("position_d{depth}"),
        || generator.visual_token(hidden.clone()).map(drop),
        |seconds| {
            vec![
                ("ms_per_code", 1e3 * seconds / depth as f64),
                ("gb_per_s", (depth * step) as f64 / seconds / 1e9),
            ]
        },
    )
}
