//! The optimizer's state in a checkpoint: a file that does not depend on how many ranks have it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};

use crate::checkpoint::Files;
use crate::device::write_floats;
use crate::training::optimizer::{AdamW, Moments, Shards};
use crate::{Error, Result};

const FILE: &str = "optimizer.safetensors";

/// How the names of moments begin in a file, in the order in which it has them.
const MOMENTS: [&str; 2] = ["first.", "second."];

/// Writes what all ranks have in a checkpoint's folder, on rank 0, while the others [send it](send).
pub(super) fn write(folder: &Path, optimizer: &AdamW, shards: &Shards) -> Result<()> {
    let path = &folder.join(FILE);
    let failed =
        |error: safetensors::SafeTensorError| Error::failed(format!("{}: {error}", path.display()));
    let outcome = RefCell::new(Ok(()));
    let mut views = Vec::new();
    for (index, name) in MOMENTS.into_iter().enumerate() {
        for (parameter, moments) in &optimizer.moments {
            let view = Gathered {
                parameter,
                moments,
                index,
                shape: [shards.length(parameter).unwrap_or_default()],
                shards,
                outcome: &outcome,
            };
            views.push((format!("{name}{parameter}"), view));
        }
    }
    let mut time = HashMap::from([("time".to_string(), optimizer.time.to_string())]);
    for (parameter, moments) in &optimizer.moments {
        if moments.since > 0 {
            time.insert(format!("since.{parameter}"), moments.since.to_string());
        }
    }
    safetensors::serialize_to_file(views, Some(time), path).map_err(failed)?;
    outcome.into_inner()
}

/// What the other ranks do while rank 0 writes.
pub(crate) fn send(optimizer: &AdamW, shards: &Shards) -> Result<()> {
    for index in 0..MOMENTS.len() {
        for (parameter, moments) in &optimizer.moments {
            shards.whole_of(parameter, &moments.read(index)?)?;
        }
    }
    Ok(())
}

/// Reads this rank's part, to be on a device.
pub(super) fn read(folder: &Path, shards: &Shards, device: &Device) -> Result<AdamW> {
    let path = &folder.join(FILE);
    // Mapped: moments are twice as large as what is trained.
    let file = Files::folder(folder).bytes(FILE)?;
    let invalid = |error: safetensors::SafeTensorError| Error::invalid(path, error.to_string());
    let (_, header) = SafeTensors::read_metadata(&file).map_err(invalid)?;
    let tensors = SafeTensors::deserialize(&file).map_err(invalid)?;
    let number = |name: &str| -> Option<u64> {
        let numbers = header.metadata().as_ref()?;
        numbers.get(name)?.parse().ok()
    };
    let device = device.clone().inner();
    let time = number("time").ok_or_else(|| Error::invalid(path, "holds no optimizer"))?;
    let floats = |name: &str| -> Result<Vec<f32>> {
        let tensor = tensors.tensor(name).map_err(invalid)?;
        if tensor.dtype() != Dtype::F32 {
            let dtype = tensor.dtype();
            return Err(Error::invalid(
                path,
                format!("`{name}` is {dtype:?}, not F32"),
            ));
        }
        let values = tensor.data().as_chunks().0.iter();
        Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
    };
    let mut optimizer = AdamW {
        time,
        ..AdamW::default()
    };
    for name in tensors.names() {
        if let Some(parameter) = name.strip_prefix("first.") {
            let [first, second] = [floats(name)?, floats(&format!("second.{parameter}"))?];
            let stored = first.len();
            if stored != second.len() {
                let reason = format!("the two moments of `{parameter}` are not of one size");
                return Err(Error::invalid(path, reason));
            }
            let wrong = match shards.length(parameter) {
                None => Some("which the model does not have".to_string()),
                Some(size) => (size != stored).then(|| format!("which has {size}")),
            };
            if let Some(wrong) = wrong {
                let reason = format!("has moments of {stored} numbers for `{parameter}`, {wrong}");
                return Err(Error::invalid(path, reason));
            }
            let kept = [first, second].map(|whole| shards.shard(parameter, &whole));
            let keeps_some = !kept[0].is_empty();
            let moments = Moments {
                numbers: keeps_some.then(|| kept.map(|list| write_floats(list, &device))),
                since: number(&format!("since.{parameter}")).unwrap_or_default(),
            };
            optimizer.moments.insert(parameter.to_string(), moments);
        }
    }
    Ok(optimizer)
}

/// Moments that come from all ranks when their turn to be written has come, one tensor in memory at a time.
struct Gathered<'a> {
    parameter: &'a str,
    moments: &'a Moments,
    /// Which of the two.
    index: usize,
    shape: [usize; 1],
    shards: &'a Shards,
    /// Whether the other ranks could be reached.
    outcome: &'a RefCell<Result<()>>,
}

impl View for Gathered<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut outcome = self.outcome.borrow_mut();
        let mut whole = Vec::new();
        if outcome.is_ok() {
            let shard = self.moments.read(self.index);
            match shard.and_then(|shard| self.shards.whole_of(self.parameter, &shard)) {
                Ok(values) => whole = values,
                Err(error) => *outcome = Err(error),
            }
        }
        whole.resize(self.shape[0], 0.0);
        let bytes = whole.iter().flat_map(|value| value.to_le_bytes());
        Cow::Owned(bytes.collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape[0]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Tensor;
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::training::optimizer::{Gradients, Place};
    use crate::training::recipe;

    impl PartialEq for AdamW {
        fn eq(&self, other: &Self) -> bool {
            let numbers = |optimizer: &Self| {
                let moments = optimizer.moments.iter().map(|(path, moments)| {
                    let [first, second] = [0, 1].map(|index| moments.read(index).unwrap());
                    (path.clone(), first, second, moments.since)
                });
                moments.collect::<Vec<_>>()
            };
            self.time == other.time && numbers(self) == numbers(other)
        }
    }

    #[test]
    fn moments_come_back_and_damaged_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, path) = (folder.path(), folder.path().join(FILE));
        let device = Device::flex();
        let list = |numbers| Tensor::from_floats(numbers, &device);
        let moments = Moments {
            numbers: Some([list([1.0, 2.0]), list([3.0, 4.0])]),
            since: 5,
        };
        let whole = AdamW {
            moments: [("weight".to_string(), moments)].into(),
            time: 7,
        };
        let shards = |width| {
            let layer = LinearConfig::new(width, 1).with_bias(false);
            Shards::whole(&layer.init(&device))
        };
        let other = shards(3);
        let shards = shards(2);
        write(folder, &whole, &shards).unwrap();
        assert_eq!(read(folder, &shards, &device).unwrap(), whole);
        let error = read(folder, &other, &device).unwrap_err().to_string();
        assert!(
            error.contains("2 numbers for `weight`, which has 3"),
            "{error}"
        );

        for (dtype, second, words) in [
            (Dtype::F32, 1, "of `weight` are not of one size"),
            (Dtype::BF16, 4, "`second.weight` is BF16, not F32"),
        ] {
            let bytes = [0; 8];
            let length = second * dtype.bitsize() / 8;
            let first = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
            let second = TensorView::new(dtype, vec![second], &bytes[..length]).unwrap();
            let time = HashMap::from([("time".to_string(), "7".to_string())]);
            let views = [("first.weight", first), ("second.weight", second)];
            safetensors::serialize_to_file(views, Some(time), &path).unwrap();
            let error = read(folder, &shards, &device).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(FILE), "{error}");
        }
    }

    /// Steps on the host and on the device, and from one to the other through a file, are the same.
    #[test]
    fn a_run_goes_on_in_another_place() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex().autodiff();
        let start: Linear = LinearConfig::new(9, 7).init(&device);
        let settings = recipe::Optimizer {
            learning_rate: 0.01,
            min_lr_ratio: 0.0,
            warmup_ratio: 0.0,
            weight_decay: 0.1,
            betas: [0.9, 0.98],
            max_grad_norm: 0.1,
        };
        let train = |places: [Place; 4]| {
            let (mut model, mut optimizer) = (start.clone(), AdamW::default());
            for place in places {
                let shards = Shards::whole(&model);
                let mut gradients = Gradients::default();
                for sample in 0..3 {
                    let input = Tensor::arange(0..9, &device)
                        .float()
                        .add_scalar(sample as f32);
                    let loss = model.forward(input.sin().reshape([1, 9])).square().mean();
                    gradients.add(Gradients::of(&model, (loss / 3.0).backward()));
                }
                let is_adversary = |path: &str| path == "bias";
                let most = settings.max_grad_norm;
                (gradients.clip_norm(&model, &shards, most, &is_adversary, place)).unwrap();
                let step = optimizer.step(model, gradients, 0.01, &settings, &shards, place);
                model = step.unwrap();
                write(folder.path(), &optimizer, &shards).unwrap();
                optimizer = read(folder.path(), &shards, &device).unwrap();
            }
            let weights = model.weight.val().inner().reshape([63]);
            Tensor::cat(vec![weights, model.bias.unwrap().val().inner()], 0)
        };
        let (host, on_device) = (Place::Host, Place::Device);
        let want = train([host; 4]);
        for places in [
            [on_device; 4],
            [host, host, on_device, on_device],
            [on_device, host, on_device, host],
        ] {
            let difference = (train(places) - want.clone()).abs().max();
            assert!(difference.into_scalar::<f32>() < 1e-7, "{places:?}");
        }
    }
}
