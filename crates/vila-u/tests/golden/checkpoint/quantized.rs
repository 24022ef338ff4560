//! Weights held or stored in fewer bits.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use safetensors::Dtype;
use vila_u::checkpoint::{self, Checkpoint, Files, WeightDtype};
use vila_u_kernels::full_precision;

use super::{
    Stored, assert_refused, copy, load, original, read_json, read_tensors, save, write_tensors,
};

/// What the linear layers of a model lead to: text logits, logits of the first code, visual features and
/// what the projector makes of them.
fn outputs(loaded: &Checkpoint, pixels: &Tensor<4>, tokens: usize) -> [Vec<f32>; 4] {
    let (model, device) = (&loaded.model, Device::flex());
    let numbers = |first: i64| {
        let numbers = (first..first + tokens as i64).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(numbers, [1, tokens]), &device)
    };
    let embeds = model.llm.embed(numbers(1));
    let hidden = model.llm.forward(embeds, numbers(0), None, None);
    let depth = &model.vision_tower.rqtransformer;
    let last = hidden.clone().narrow(1, tokens - 1, 1).squeeze_dim::<2>(1);
    let codes = depth.first(last, &mut depth.cache(1));
    let features = model.vision_tower.rqvaesiglip.features(pixels.clone());
    let projected = model.mm_projector.forward(features.clone());
    let outputs = [
        model.llm.logits(hidden).into_data(),
        codes.into_data(),
        features.into_data(),
        projected.into_data(),
    ];
    outputs.map(|data| data.iter::<f32>().collect())
}

fn weight_dtype(loaded: &Checkpoint) -> DType {
    let layer = &loaded.model.llm.model.layers[1];
    layer.mlp.down_proj.weight.val().dtype()
}

/// The same weights, held as bf16 or widened to f32 when loaded: the same model, and where the CPU multiplies
/// bfloat16 one as close as that rounds.
#[test]
fn held_in_bfloat16() {
    let target = tempfile::tempdir().unwrap();
    let out = target.path().join("bf16");
    save(&out, &load(&original()).unwrap(), WeightDtype::BF16).unwrap();
    let files = Files::folder(&out);
    let [wide, narrow] = [WeightDtype::F32, WeightDtype::BF16]
        .map(|format| checkpoint::load(&files, &Device::flex(), format).unwrap());
    assert_eq!(
        [&wide, &narrow].map(weight_dtype),
        [DType::F32, DType::BF16]
    );

    let pixels = Tensor::<4>::random([1, 3, 64, 64], Distribution::Default, &Device::flex());
    // Few positions and many take different ways.
    for tokens in [1, 39] {
        let wide = outputs(&wide, &pixels, tokens);
        let exact = full_precision(|| outputs(&narrow, &pixels, tokens));
        let rounded = outputs(&narrow, &pixels, tokens);
        for (narrow, most) in [(exact, 1e-5), (rounded, 2e-2)] {
            for (narrow, wide) in narrow.iter().zip(&wide) {
                let error = crate::fixture::relative_error(narrow, wide);
                assert!(error < most, "{error}");
            }
        }
    }
}

/// Weights in blocks, written to files or made while loading: the same model, as far from the original as
/// so many bits are, and back in floating point exactly what the blocks stood for.
#[test]
fn quantized() {
    let target = tempfile::tempdir().unwrap();
    let whole = load(&original()).unwrap();
    let pixels = Tensor::<4>::random([1, 3, 64, 64], Distribution::Default, &Device::flex());
    for (format, most) in [(WeightDtype::Q8_0, 0.05), (WeightDtype::Q4_0, 0.4)] {
        let out = target.path().join(format.name());
        checkpoint::convert(&out, &Files::folder(original()), format, &|_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let config = read_json(&out.join("llm/config.json"));
        assert_eq!(config["quantization_config"]["quant_method"], format.name());

        let stored = Files::folder(&out);
        let stored = checkpoint::load(&stored, &Device::flex(), format).unwrap();
        let files = Files::folder(original());
        let made = checkpoint::load(&files, &Device::flex(), format).unwrap();
        for model in [&stored, &made] {
            assert!(matches!(weight_dtype(model), DType::QFloat(_)));
        }
        for tokens in [1, 39] {
            let wanted = outputs(&whole, &pixels, tokens);
            let found = outputs(&made, &pixels, tokens);
            for ((found, wanted), most) in found.iter().zip(&wanted).zip([most, most, 1e-2, most]) {
                let error = crate::fixture::relative_error(found, wanted);
                assert!(error < most, "{format:?} {tokens}: {error}");
            }
            assert!(outputs(&stored, &pixels, tokens) == found);
        }

        let info = checkpoint::info(&Files::folder(&out)).unwrap();
        assert_eq!(
            info.parameters,
            checkpoint::info(&files).unwrap().parameters
        );
        assert!(info.parts[0].dtypes.contains_key(&format!("{format:?}")));

        let again = target.path().join(format!("{}-again", format.name()));
        checkpoint::convert(&again, &Files::folder(&out), format, &|_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let back = target.path().join(format!("{}-back", format.name()));
        checkpoint::convert(&back, &Files::folder(&out), WeightDtype::F32, &|_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let twice = target.path().join(format!("{}-twice", format.name()));
        checkpoint::convert(&twice, &Files::folder(&back), format, &|_, _| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let file = |root: &Path| fs::read(root.join("llm/model.safetensors")).unwrap();
        assert!(file(&out) == file(&again));
        assert!(
            file(&out) == file(&twice),
            "rounding what is rounded changes it"
        );
        let config = read_json(&back.join("llm/config.json"));
        assert!(config.get("quantization_config").is_none());
    }
}

/// A tensor of bytes is blocks only where a linear layer's weight of that size is expected.
#[test]
fn bytes_that_are_no_blocks() {
    let folder = copy();
    let path = folder.path().join("llm/model.safetensors");
    let mut tensors = read_tensors(&path);
    let table = |tensor: &&mut Stored| tensor.0 == "model.embed_tokens.weight";
    let table = tensors.iter_mut().find(table).unwrap();
    table.1 = Dtype::U8;
    table.3.truncate(table.2.iter().product());
    write_tensors(&path, &tensors);
    assert_refused(folder.path(), &["model.embed_tokens.weight", "U8"]);
}
