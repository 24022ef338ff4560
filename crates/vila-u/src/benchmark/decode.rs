//! The language model: one token, for which every weight is read once, so that memory is the limit; and a long prompt,
//! whose limit are products.

use burn::tensor::{Distribution, Int, Tensor, TensorData};

use super::{Bench, Suite, flop, weight_bytes};
use crate::{Result, checkpoint::Component};

/// A row with the caption and one without, as guidance needs.
const ROWS: usize = 2;
/// Positions read before: an image of the 256 px model.
const PAST: usize = 256;
/// Positions of a long prompt.
const PROMPT: usize = 1000;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (config, mut model) = bench.model()?;
    bench.load(Component::Llm, &mut model.llm)?;
    let llm = &model.llm;
    let device = &bench.subject.device;
    let width = config.llm.hidden_size;
    let normal = Distribution::Normal(0.0, 1.0);

    let dtype = llm.dtype();
    let mut cache = llm.cache(ROWS, PAST + 1);
    let shape = [ROWS, config.llm.kv_heads(), PAST, config.llm.head_dim()];
    for layer in 0..config.llm.num_hidden_layers {
        let random = || Tensor::random(shape, normal, (device, dtype));
        cache.append(layer, [random(), random()]);
    }
    cache.advance(PAST);
    let embeds = Tensor::<3>::random([ROWS, 1, width], normal, (device, dtype));
    let positions = TensorData::from([[PAST as i64]; ROWS]);
    let positions = Tensor::<2, Int>::from_data(positions, device);

    let bytes = weight_bytes(&llm.model.layers) as f64;
    let layers = config.llm.num_hidden_layers as f64;
    bench.case(
        Suite::Decode,
        "layers",
        || {
            cache.truncate(PAST);
            llm.forward(embeds.clone(), positions.clone(), None, Some(&mut cache));
            Ok(())
        },
        |seconds| {
            vec![
                ("layers", layers),
                ("tokens_per_s", ROWS as f64 / seconds),
                ("gb_per_s", bytes / seconds / 1e9),
            ]
        },
    )?;
    let embeds = Tensor::<3>::random([1, PROMPT, width], normal, (device, dtype));
    let positions = Tensor::<1, Int>::arange(0..PROMPT as i64, device).unsqueeze();
    let mut cache = llm.cache(1, PROMPT);
    let gflop = flop::prompt(&config.llm, PROMPT) as f64 / 1e9;
    bench.case(
        Suite::Decode,
        &format!("prompt_{PROMPT}"),
        || {
            cache.truncate(0);
            llm.forward(embeds.clone(), positions.clone(), None, Some(&mut cache));
            Ok(())
        },
        |seconds| {
            vec![
                ("layers", layers),
                ("tokens_per_s", PROMPT as f64 / seconds),
                ("gflop", gflop),
                ("gflop_per_s", gflop / seconds),
            ]
        },
    )?;
    let Some(head) = &llm.lm_head else {
        return Ok(());
    };
    let embeds = Tensor::<3>::random([ROWS, 1, width], normal, (device, dtype));
    let bytes = weight_bytes(head) as f64;
    bench.case(
        Suite::Decode,
        "head",
        || {
            llm.logits(embeds.clone());
            Ok(())
        },
        |seconds| vec![("gb_per_s", bytes / seconds / 1e9)],
    )
}
