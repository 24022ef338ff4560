//! LPIPS' one file, out of the two that others publish: torchvision's VGG16 and the `lpips` package's linear
//! heads. Pickles are parsed as data and never run.

use std::path::{Path, PathBuf};

use super::lpips::{BLOCKS, CHANNELS, CONVOLUTIONS};
use crate::checkpoint::{stored_tensor::StoredTensor, tensors::Tensors};
use crate::convert::{StoredFloats, write_floats};
use crate::{Error, Result};
use burn::tensor::DType;

/// Writes what [`super::Lpips::load`] reads to `output`, from VGG16 and the heads, given in any order.
///
/// # Errors
/// When a file is missing or damaged, or is neither of the two.
pub fn convert(inputs: &[PathBuf], output: &Path) -> Result<()> {
    let (mut network, mut heads) = (None, None);
    for path in inputs {
        let tensors = Tensors::open_file(path)?;
        let place = match &tensors {
            t if t.by_key.contains_key("features.0.weight") => &mut network,
            t if t.by_key.contains_key("lin0.model.1.weight") => &mut heads,
            _ => {
                let reason = "holds neither torchvision's VGG16 (features.0.weight) nor LPIPS' linear heads \
                              (lin0.model.1.weight) nor, alone, FID's Inception-v3 (Conv2d_1a_3x3.conv.weight)";
                return Err(Error::invalid(path, reason));
            }
        };
        if place.replace(tensors).is_some() {
            return Err(Error::usage(format!(
                "{}: the file before was of the same kind; give one VGG16 and one of linear heads",
                path.display()
            )));
        }
    }
    let missing = |what| Error::usage(format!("{what} is missing; see vila-u convert --help"));
    let network = network.ok_or_else(|| missing("torchvision's vgg16-397923af.pth"))?;
    let heads = heads.ok_or_else(|| missing("vgg.pth, the linear heads of LPIPS"))?;

    let mut tensors = Vec::new();
    let (mut indices, mut inputs) = (CONVOLUTIONS.iter(), 3);
    for (block, (count, outputs)) in BLOCKS.into_iter().zip(CHANNELS).enumerate() {
        for index in indices.by_ref().take(count) {
            let weight = format!("features.{index}.weight");
            let bias = format!("features.{index}.bias");
            tensors.push(read(&network, &weight, &weight, &[outputs, inputs, 3, 3])?);
            tensors.push(read(&network, &bias, &bias, &[outputs])?);
            inputs = outputs;
        }
        let (from, to) = (
            format!("lin{block}.model.1.weight"),
            format!("lin{block}.weight"),
        );
        tensors.push(read(&heads, &from, &to, &[1, outputs, 1, 1])?);
    }
    write_floats(output, tensors)
}

/// The tensor `from` under the name `to`, as f32.
fn read(tensors: &Tensors, from: &str, to: &str, shape: &[usize]) -> Result<StoredFloats> {
    let path = &tensors.path;
    let stored: &StoredTensor = tensors
        .by_key
        .get(from)
        .ok_or_else(|| Error::invalid(path, format!("tensor `{from}` is missing")))?;
    if stored.shape != shape {
        let reason = format!(
            "tensor `{from}` has shape {:?}, VGG16's is {shape:?}: this is of another network",
            stored.shape
        );
        return Err(Error::invalid(path, reason));
    }
    Ok(StoredFloats::new(to, &stored.floats(from, DType::F32)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    /// A file of zeros with these tensors.
    fn write(path: &Path, tensors: &[(String, Vec<usize>)]) {
        let zeros: Vec<Vec<u8>> = (tensors.iter())
            .map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()])
            .collect();
        let views = tensors.iter().zip(&zeros).map(|((key, shape), zeros)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), zeros).unwrap();
            (key, view)
        });
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    fn network(last: usize) -> Vec<(String, Vec<usize>)> {
        let channels = [
            64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, last,
        ];
        let inputs = [3].into_iter().chain(channels);
        (CONVOLUTIONS.iter().zip(channels).zip(inputs))
            .flat_map(|((index, outputs), inputs)| {
                [
                    (
                        format!("features.{index}.weight"),
                        vec![outputs, inputs, 3, 3],
                    ),
                    (format!("features.{index}.bias"), vec![outputs]),
                ]
            })
            // The classifier stays behind.
            .chain([("classifier.6.bias".to_string(), vec![10])])
            .collect()
    }

    fn heads() -> Vec<(String, Vec<usize>)> {
        let head = |(block, width)| (format!("lin{block}.model.1.weight"), vec![1, width, 1, 1]);
        CHANNELS.into_iter().enumerate().map(head).collect()
    }

    #[test]
    fn two_files_become_one_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let [vgg, lin, output] =
            ["vgg.safetensors", "lin.safetensors", "lpips.safetensors"].map(path);
        write(&vgg, &network(512));
        write(&lin, &heads());
        convert(&[lin.clone(), vgg.clone()], &output).unwrap();
        let tensors = Tensors::open_file(&output).unwrap();
        assert_eq!(tensors.by_key.len(), 2 * 13 + 5);
        super::super::Lpips::load(&output, &burn::tensor::Device::flex()).unwrap();

        // What cannot be used is named, and nothing is written.
        let wrong = path("wrong.safetensors");
        write(&wrong, &network(511));
        let other = path("other.safetensors");
        write(&other, &[("weight".to_string(), vec![1])]);
        let new = path("new.safetensors");
        for (files, expected) in [
            (vec![&wrong, &lin], "another network"),
            (vec![&other, &lin], "neither"),
            (vec![&lin], "vgg16-397923af.pth"),
            (vec![&vgg], "vgg.pth"),
            (vec![&vgg, &vgg], "same kind"),
            (vec![&path("none.pth"), &lin], "none.pth"),
        ] {
            let files: Vec<PathBuf> = files.into_iter().cloned().collect();
            let error = convert(&files, &new).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!new.exists());
        }
        let error = super::super::Lpips::load(&vgg, &burn::tensor::Device::flex()).unwrap_err();
        assert!(error.to_string().contains("vila-u convert"), "{error}");
    }
}
