//! Pictures to statistics of their features.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use image::RgbImage;

use super::{Definition, FeatureStatistics};
use crate::{
    Result,
    device::read_floats,
    evaluation::{
        inception::{FeatureLayer, Inception, SIZE},
        metrics::InceptionScore,
    },
};

/// The network, what it is shown of a picture, and the layers whose features are kept.
#[derive(Clone, Debug)]
pub struct Extractor {
    pub inception: Inception,
    pub definition: Definition,
    pub layers: Vec<FeatureLayer>,
}

/// What is kept of a set of pictures.
#[derive(Clone, Debug)]
pub struct PictureStatistics {
    /// For each layer of the [`Extractor`].
    pub layers: Vec<(FeatureLayer, FeatureStatistics)>,
    pub inception_score: InceptionScore,
}

impl PictureStatistics {
    /// Everything that was added, by names that begin with `name`.
    pub(crate) fn sums(&self, name: &str) -> Vec<(String, Vec<f64>)> {
        let layers = self
            .layers
            .iter()
            .map(|(layer, statistics)| (format!("{name}.{}", layer.name()), statistics.sums()));
        let score = (format!("{name}.score"), self.inception_score.sums());
        layers.chain([score]).collect()
    }

    /// Takes what others had under these names; None where it is not of the same network and layers.
    pub(crate) fn restore(&mut self, name: &str, sums: &BTreeMap<String, Vec<f64>>) -> Option<()> {
        for (layer, statistics) in &mut self.layers {
            statistics.restore(sums.get(&format!("{name}.{}", layer.name()))?)?;
        }
        self.inception_score
            .restore(sums.get(&format!("{name}.score"))?)
    }
}

impl Extractor {
    /// Of no pictures yet.
    pub fn statistics(&self) -> PictureStatistics {
        let layers = self.layers.iter().map(|layer| {
            let channels = self.inception.channels(*layer);
            (*layer, FeatureStatistics::new(channels))
        });
        PictureStatistics {
            layers: layers.collect(),
            inception_score: InceptionScore::new(self.inception.classes()),
        }
    }

    /// What the network is shown of a picture: `[3, 299, 299]`.
    pub fn prepare(&self, image: &RgbImage) -> Vec<f32> {
        self.definition.prepare(image)
    }

    /// Adds pictures, in one batch, each as [`Self::prepare`] made it.
    ///
    /// # Errors
    /// When the weights are damaged: features must be finite.
    pub fn add(&self, prepared: &[Vec<f32>], statistics: &mut PictureStatistics) -> Result<()> {
        let shape = [prepared.len(), 3, SIZE, SIZE];
        let pixels = TensorData::new(prepared.concat(), shape);
        let pixels = Tensor::from_data(pixels, &self.inception.device());
        let activations = self.inception.forward(pixels);
        for (layer, statistics) in &mut statistics.layers {
            statistics.add(&read_floats(activations.features(*layer))?)?;
        }
        statistics
            .inception_score
            .add(&read_floats(activations.logits)?);
        Ok(())
    }
}
