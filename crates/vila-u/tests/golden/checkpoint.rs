//! Loading: what is in the files is what is in the module, and damaged files are refused.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::Device,
};
use vila_u::checkpoint::{Part, weights};

use crate::fixture::folder;

#[derive(Module, Debug)]
struct Projector {
    layers: Vec<Linear>,
}

fn projector(hidden: usize) -> Projector {
    let device = Device::flex();
    Projector {
        layers: vec![
            LinearConfig::new(64, hidden).init(&device),
            LinearConfig::new(hidden, 96).init(&device),
        ],
    }
}

#[test]
fn linear_weights_are_transposed_and_gaps_closed() {
    let mut module = projector(96);
    let folder = folder().join("checkpoint/mm_projector");
    weights::load_into(&mut module, &folder, Part::Projector).unwrap();
    let recorded = crate::fixture::Recorded::open("checkpoint/mm_projector/model.safetensors");
    for (layer, key) in module.layers.iter().zip(["layers.0", "layers.2"]) {
        let weight = layer.weight.val().transpose().into_data();
        assert_eq!(
            weight.to_vec::<f32>().unwrap(),
            recorded.floats(&format!("{key}.weight"))
        );
    }
}
