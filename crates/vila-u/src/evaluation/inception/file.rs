//! Inception-v3 from a file: the one that FID's implementations in PyTorch read.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{
    Block, Convolution, FeatureLayer, Inception, Layer,
    architecture::{Border, Kernel, STAGES, Step, convolutions},
};
use crate::{
    Error, Result,
    checkpoint::tensors::Tensors,
    convert::{StoredFloats, write_floats},
};

/// Added to variances by batch normalisation.
const EPSILON: f64 = 1e-3;
/// What a convolution consists of.
const TENSORS: [&str; 5] = [
    "conv.weight",
    "bn.weight",
    "bn.bias",
    "bn.running_mean",
    "bn.running_var",
];
/// Where the weights are, for messages.
const SOURCE: &str =
    "pt_inception-2015-12-05-6726825d.pth of https://github.com/mseitzer/pytorch-fid";

/// Whether these are the weights of such a network.
pub(crate) fn is_inception(tensors: &Tensors) -> bool {
    tensors.by_key.contains_key("Conv2d_1a_3x3.conv.weight")
}

/// Writes the weights that are needed to `output`, under the same keys.
///
/// # Errors
/// When the file is damaged or of another network, and when `output` cannot be written.
pub fn convert(input: &Path, output: &Path) -> Result<()> {
    let tensors = Tensors::open_file(input)?;
    let network = read(&tensors, &Device::flex())?;
    for layer in FeatureLayer::ALL {
        let (found, name) = (network.channels(layer), layer.name());
        if found.to_string() != name {
            let reason = format!("{found} channels where Inception-v3 has {name}");
            return Err(Error::invalid(input, reason));
        }
    }
    let keys = convolutions().flat_map(|name| TENSORS.map(|tensor| format!("{name}.{tensor}")));
    let floats = keys.chain(["fc.weight".to_string()]).map(|key| {
        let values = floats(&tensors, &key, |_| true)?;
        Ok(StoredFloats::new(key, &values))
    });
    write_floats(output, floats.collect::<Result<_>>()?)
}

impl Inception {
    /// Reads the weights, as they are published or as `vila-u convert` wrote them.
    ///
    /// # Errors
    /// When the file is missing or damaged, or of another network.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        read(&Tensors::open_file(path)?, device)
    }
}

fn read(tensors: &Tensors, device: &Device) -> Result<Inception> {
    if tensors.by_key.contains_key("AuxLogits.fc.weight") {
        let reason = format!(
            "torchvision's Inception-v3, whose features are others; FID is defined by {SOURCE}"
        );
        return Err(Error::invalid(&tensors.path, reason));
    }
    let (mut stages, mut inputs) = (Vec::new(), 3);
    for blocks in STAGES {
        let mut stage = Vec::new();
        for architecture in blocks {
            let branches = architecture.branches.iter().map(|steps| {
                let mut channels = inputs;
                let layers = steps.iter().map(|step| {
                    let layer = layer(tensors, architecture.name, step, channels, device)?;
                    channels = layer.outputs().unwrap_or(channels);
                    Ok(layer)
                });
                let layers = layers.collect::<Result<Vec<_>>>()?;
                Ok((layers, channels))
            });
            let branches = branches.collect::<Result<Vec<_>>>()?;
            let (branches, outputs): (Vec<_>, Vec<usize>) = branches.into_iter().unzip();
            inputs = outputs.iter().sum();
            stage.push(Block {
                branches,
                outputs: inputs,
            });
        }
        stages.push(stage);
    }
    let fits = |shape: &[usize]| matches!(*shape, [classes, channels] if classes > 0 && channels == inputs);
    let classes = Tensor::from_data(floats(tensors, "fc.weight", fits)?, device);
    Ok(Inception { stages, classes })
}

fn layer(
    tensors: &Tensors,
    block: &str,
    step: &Step,
    inputs: usize,
    device: &Device,
) -> Result<Layer> {
    let conv = |name: &str, kernel, border| {
        let name = format!("{block}{name}");
        Convolution::read(tensors, &name, inputs, kernel, border, device)
    };
    Ok(match step {
        Step::Conv(name, kernel, border) => Layer::Conv(Box::new(conv(name, *kernel, *border)?)),
        Step::Fork([first, second]) => Layer::Fork(vec![
            conv(first.0, first.1, Border::Padded)?,
            conv(second.0, second.1, Border::Padded)?,
        ]),
        Step::Mean => Layer::Mean,
        Step::Max(border) => Layer::Max(*border),
    })
}

impl Layer {
    /// Channels that come out; None for as many as went in.
    fn outputs(&self) -> Option<usize> {
        let outputs = |conv: &Convolution| conv.bias.dims()[0];
        match self {
            Self::Conv(conv) => Some(outputs(conv)),
            Self::Fork(both) => Some(both.iter().map(outputs).sum()),
            Self::Mean | Self::Max(_) => None,
        }
    }
}

impl Convolution {
    /// Folds the normalisation into the weights: `gamma (w x - mean) / sqrt(variance + epsilon) + beta`.
    fn read(
        tensors: &Tensors,
        name: &str,
        inputs: usize,
        [height, width]: Kernel,
        border: Border,
        device: &Device,
    ) -> Result<Self> {
        let [weight, gamma, beta, mean, variance] =
            TENSORS.map(|tensor| format!("{name}.{tensor}"));
        let fits = |shape: &[usize]| matches!(*shape, [n, i, h, w] if n > 0 && [i, h, w] == [inputs, height, width]);
        let weight = floats(tensors, &weight, fits)?;
        let outputs = weight.shape()[0];
        let per_channel = |key: &str| {
            let values = floats(tensors, key, |shape| *shape == [outputs])?;
            Ok(values.iter::<f64>().collect::<Vec<_>>())
        };
        let (gamma, beta) = (per_channel(&gamma)?, per_channel(&beta)?);
        let (mean, variance) = (per_channel(&mean)?, per_channel(&variance)?);
        let scale: Vec<f64> = gamma
            .iter()
            .zip(&variance)
            .map(|(gamma, variance)| gamma / (variance + EPSILON).sqrt())
            .collect();
        let taps = inputs * height * width;
        let scaled = weight.iter::<f64>().enumerate();
        let scaled: Vec<f32> = scaled
            .map(|(at, weight)| (weight * scale[at / taps]) as f32)
            .collect();
        let bias: Vec<f32> = (0..outputs)
            .map(|at| (beta[at] - mean[at] * scale[at]) as f32)
            .collect();
        let weight = TensorData::new(scaled, [outputs, inputs, height, width]);
        Ok(Self {
            weight: Tensor::from_data(weight, device),
            bias: Tensor::from_data(TensorData::new(bias, [outputs]), device),
            border,
        })
    }
}

/// The tensor of this key, if its shape is as it should be.
fn floats(tensors: &Tensors, key: &str, fits: impl Fn(&[usize]) -> bool) -> Result<TensorData> {
    let wrong = |what: String| {
        let reason = format!("{what}; this is not FID's Inception-v3, {SOURCE}");
        Error::invalid(&tensors.path, reason)
    };
    let stored = tensors.by_key.get(key);
    let stored = stored.ok_or_else(|| wrong(format!("tensor `{key}` is missing")))?;
    if !fits(&stored.shape) {
        return Err(wrong(format!(
            "tensor `{key}` has shape {:?}",
            stored.shape
        )));
    }
    stored.floats(key, DType::F32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    /// A file of weights that are all a half, with convolutions of two channels each.
    fn write(path: &Path, leave_out: &str, add: &[&str]) {
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut inputs = 3;
        for block in STAGES.into_iter().flatten() {
            let mut outputs = 0;
            for steps in block.branches {
                let mut channels = inputs;
                let mut conv = |name: &str, [height, width]: Kernel, channels: usize| {
                    let name = format!("{}{name}", block.name);
                    let [weight, rest @ ..] = TENSORS.map(|tensor| format!("{name}.{tensor}"));
                    shapes.push((weight, vec![2, channels, height, width]));
                    shapes.extend(rest.map(|key| (key, vec![2])));
                };
                for step in *steps {
                    channels = match step {
                        Step::Conv(name, kernel, _) => {
                            conv(name, *kernel, channels);
                            2
                        }
                        Step::Fork(both) => {
                            both.iter()
                                .for_each(|(name, kernel)| conv(name, *kernel, channels));
                            4
                        }
                        Step::Mean | Step::Max(_) => channels,
                    };
                }
                outputs += channels;
            }
            inputs = outputs;
        }
        shapes.push(("fc.weight".into(), vec![5, inputs]));
        shapes.retain(|(key, _)| key != leave_out);
        shapes.extend(add.iter().map(|key| (key.to_string(), vec![1])));
        let half = 0.5_f32.to_le_bytes();
        let bytes: Vec<Vec<u8>> = (shapes.iter())
            .map(|(_, shape)| half.repeat(shape.iter().product()))
            .collect();
        let views = shapes.iter().zip(&bytes).map(|((key, shape), bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (key, view)
        });
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    #[test]
    fn what_is_not_this_network_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let device = Device::flex();
        write(&path, "", &[]);
        let network = Inception::load(&path, &device).unwrap();
        assert_eq!(network.channels(FeatureLayer::L64), 2);
        assert_eq!(network.classes(), 5);
        let output = folder.path().join("new.safetensors");
        let error = convert(&path, &output).unwrap_err().to_string();
        assert!(
            error.contains("2 channels where Inception-v3 has 64"),
            "{error}"
        );
        assert!(!output.exists());
        for (leave_out, add, expected) in [
            (
                "Mixed_6c.branch7x7_2.bn.bias",
                "",
                "`Mixed_6c.branch7x7_2.bn.bias` is missing",
            ),
            ("fc.weight", "fc.weight", "`fc.weight` has shape [1]"),
            ("", "AuxLogits.fc.weight", "torchvision's"),
        ] {
            let add: Vec<&str> = [add].into_iter().filter(|key| !key.is_empty()).collect();
            write(&path, leave_out, &add);
            let error = Inception::load(&path, &device).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("a.safetensors"),
                "{error}"
            );
        }
    }
}
