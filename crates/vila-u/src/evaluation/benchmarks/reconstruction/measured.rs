//! What a run of reconstruction adds up.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::Options;
use crate::{
    Result,
    device::{read_floats, read_ints},
    evaluation::{
        fid::{Extractor, PictureStatistics},
        inception::FeatureLayer,
        metrics::{CodeCounts, mean, psnr, ssim},
        record::{EvaluationRecord, Interval, Metric},
        sample_log::Sample,
    },
    media::{stack, to_images},
    tower::RqVaeSiglip,
    training::losses::{Lpips, lpips},
};

/// The measures of a picture, by their names in results.
const PER_PICTURE: [&str; 3] = ["psnr", "ssim", "lpips"];

/// Everything measured so far.
pub(super) struct Measured<'a> {
    options: &'a Options,
    device: Device,
    codes: CodeCounts,
    originals: Option<PictureStatistics>,
    /// With the first code, the first two, ...
    depths: Vec<Depth>,
}

struct Depth {
    statistics: Option<PictureStatistics>,
    /// For each of [`PER_PICTURE`].
    values: [Vec<f64>; 3],
}

impl<'a> Measured<'a> {
    pub fn new(tower: &RqVaeSiglip, options: &'a Options) -> Self {
        let statistics = || options.extractor.as_ref().map(Extractor::statistics);
        let quantizer = &tower.quantizer;
        let depth = |_| Depth {
            statistics: statistics(),
            values: Default::default(),
        };
        Self {
            options,
            device: tower.post_quant_conv.weight.device(),
            codes: CodeCounts::new(quantizer.depth(), quantizer.codes()),
            originals: statistics(),
            depths: (0..quantizer.depth()).map(depth).collect(),
        }
    }

    /// Measures a batch; the numbers of each of its pictures.
    pub fn add(
        &mut self,
        tower: &RqVaeSiglip,
        originals: &[RgbImage],
    ) -> Result<Vec<Map<String, Value>>> {
        let size = originals.first().map_or(0, RgbImage::width) as usize;
        let pixels = stack(originals, size, &self.device);
        let codes = tower.encode(pixels.clone()).codes;
        self.codes.add(&read_ints(codes.clone())?);
        if let (Some(extractor), Some(statistics)) = (&self.options.extractor, &mut self.originals)
        {
            add_to(extractor, originals, statistics)?;
        }
        let mut samples = vec![Map::new(); originals.len()];
        let depths = self.depths.len();
        let features = tower.quantizer.features_by_depth(codes);
        for (depth, features) in features.into_iter().enumerate() {
            let images = to_images(tower.decode(features))?;
            let own = &mut self.depths[depth];
            if let (Some(extractor), Some(statistics)) =
                (&self.options.extractor, &mut own.statistics)
            {
                add_to(extractor, &images, statistics)?;
            }
            let lpips = match &self.options.lpips {
                Some(lpips) => distances(lpips, &pixels, &images)?,
                None => Vec::new(),
            };
            let pairs = originals.par_iter().zip(&images);
            let compared: Vec<_> = pairs.map(|(a, b)| [psnr(a, b), ssim(a, b)]).collect();
            for (at, [psnr, ssim]) in compared.into_iter().enumerate() {
                let values = [psnr, ssim, lpips.get(at).copied()];
                for ((measure, value), all) in PER_PICTURE.iter().zip(values).zip(&mut own.values) {
                    // The PSNR of what is rebuilt exactly is infinite.
                    if let Some(value) = value.filter(|value| value.is_finite()) {
                        samples[at].insert(name(measure, depth, depths), json!(value));
                        all.push(value);
                    }
                }
            }
        }
        Ok(samples)
    }

    /// Everything but the numbers of each picture, by name.
    pub fn sums(&self) -> BTreeMap<String, Vec<f64>> {
        let sets = self.depths.iter().map(|depth| &depth.statistics);
        let sets = [&self.originals].into_iter().chain(sets).enumerate();
        let sums =
            sets.flat_map(|(at, set)| set.iter().flat_map(move |set| set.sums(&at.to_string())));
        sums.chain([("codes".to_string(), self.codes.sums())])
            .collect()
    }

    /// Takes these sums, and the numbers of each picture from its sample. None where they are of something else.
    pub fn restore(&mut self, sums: &BTreeMap<String, Vec<f64>>, samples: &[Sample]) -> Option<()> {
        let sets = self.depths.iter_mut().map(|depth| &mut depth.statistics);
        for (at, set) in [&mut self.originals].into_iter().chain(sets).enumerate() {
            if let Some(set) = set {
                set.restore(&at.to_string(), sums)?;
            }
        }
        self.codes.restore(sums.get("codes")?)?;
        let depths = self.depths.len();
        for (at, depth) in self.depths.iter_mut().enumerate() {
            for (measure, all) in PER_PICTURE.iter().zip(&mut depth.values) {
                let name = name(measure, at, depths);
                let values = samples
                    .iter()
                    .filter_map(|sample| sample.values.get(&name)?.as_f64());
                all.extend(values);
            }
        }
        Some(())
    }

    /// The metrics of all pictures, and their statistics as files.
    pub fn finish(self, n: usize, output: &Path, record: &mut EvaluationRecord) -> Result<()> {
        let depths = self.depths.len();
        let mut reference = Vec::new();
        if let Some(originals) = &self.originals {
            for (layer, statistics) in &originals.layers {
                let gaussian = statistics.gaussian()?;
                gaussian.write(&output.join(format!("original{}.npz", suffix(*layer))))?;
                reference.push(gaussian);
            }
            let (score, _) = originals.inception_score.score();
            record
                .metrics
                .push(Metric::plain("inception-score-original", score, n));
        }
        for (at, depth) in self.depths.iter().enumerate().rev() {
            let named = |measure: &str| name(measure, at, depths);
            if let Some(statistics) = &depth.statistics {
                for ((layer, statistics), reference) in statistics.layers.iter().zip(&reference) {
                    let (gaussian, suffix) = (statistics.gaussian()?, suffix(*layer));
                    let file = named(&format!("reconstruction{suffix}"));
                    gaussian.write(&output.join(format!("{file}.npz")))?;
                    let fid = named(&format!("rfid{suffix}"));
                    record
                        .metrics
                        .push(Metric::plain(fid, reference.distance(&gaussian)?, n));
                }
                let (score, deviation) = statistics.inception_score.score();
                record
                    .metrics
                    .push(Metric::plain(named("inception-score"), score, n));
                record.metrics.push(Metric::plain(
                    named("inception-score-deviation"),
                    deviation,
                    n,
                ));
            }
            for (measure, values) in PER_PICTURE.iter().zip(&depth.values) {
                if !values.is_empty() {
                    let metric =
                        Metric::estimate(named(measure), mean(values), Interval::Bootstrap);
                    record.metrics.push(metric);
                }
            }
        }
        for (depth, code_use) in self.codes.code_use().into_iter().enumerate() {
            for (measure, value) in [
                ("codes-used", code_use.used),
                ("perplexity", code_use.perplexity),
            ] {
                record
                    .metrics
                    .push(Metric::plain(format!("{measure}@{}", depth + 1), value, n));
            }
        }
        record.set("depths", depths);
        Ok(())
    }
}

/// `rfid` with all codes, `rfid@2` with the first two.
pub(super) fn name(measure: &str, depth: usize, depths: usize) -> String {
    if depth + 1 == depths {
        measure.into()
    } else {
        format!("{measure}@{}", depth + 1)
    }
}

/// Of the layer that FID takes unless something else is said, nothing.
fn suffix(layer: FeatureLayer) -> String {
    match layer {
        FeatureLayer::L2048 => String::new(),
        layer => format!("-{}", layer.name()),
    }
}

fn add_to(
    extractor: &Extractor,
    images: &[RgbImage],
    statistics: &mut PictureStatistics,
) -> Result<()> {
    let prepared: Vec<_> = images
        .par_iter()
        .map(|image| extractor.prepare(image))
        .collect();
    extractor.add(&prepared, statistics)
}

/// LPIPS of each pair; none where sizes differ or pictures are too small for it.
fn distances(lpips: &Lpips, originals: &Tensor<4>, images: &[RgbImage]) -> Result<Vec<f64>> {
    let size = originals.dims()[3];
    let fits = |image: &RgbImage| image.dimensions() == (size as u32, size as u32);
    if size < lpips::SMALLEST || !images.iter().all(fits) {
        return Ok(Vec::new());
    }
    let images = stack(images, size, &originals.device());
    let distances = read_floats(lpips.forward(images, originals.clone()))?;
    Ok(distances.into_iter().map(f64::from).collect())
}
