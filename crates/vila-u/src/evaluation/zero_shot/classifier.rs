//! Zero-shot classification (CLIP, arXiv 2103.00020, section 3.1): a picture is of the class whose texts its embedding is
//! nearest to. As open_clip does it (`build_zero_shot_classifier`): the unit vectors of a class's texts are averaged,
//! and the mean is made a unit vector again.

use burn::tensor::{Int, Tensor, TensorData};

use super::Templates;
use crate::{
    Error, Result, device::read_floats, text::SiglipTokenizer, tower::RqVaeSiglip,
    tower::siglip::Siglip,
};

/// One direction for each class, in the space that pictures and texts share.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Unit vectors, `[classes, C]`.
    classes: Tensor<2>,
}

impl Classifier {
    /// Reads what `templates` say of each class, `at_once` texts at a time. `on_progress` gets how many classes are done
    /// and how many there are, and stops the work with `false`.
    pub fn new(
        siglip: &Siglip,
        tokenizer: &SiglipTokenizer,
        names: &[String],
        templates: &Templates,
        at_once: usize,
        mut on_progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<Self> {
        let mut means = Mean::new(templates.len());
        let mut ids = Vec::new();
        for (name, done) in names.iter().zip(1..) {
            for text in templates.texts(name) {
                ids.push(tokenizer.encode(&text));
                if ids.len() >= at_once {
                    means.add(siglip, std::mem::take(&mut ids))?;
                }
            }
            if !on_progress(done, names.len()) {
                return Err(Error::Interrupted);
            }
        }
        means.add(siglip, ids)?;
        Self::of_sums(siglip, means.sums)
    }

    /// The same of texts that are token ids already, `[classes * templates, tokens]`, those of a class after each other.
    pub fn of_ids(siglip: &Siglip, ids: Tensor<2, Int>, templates: usize) -> Result<Self> {
        let mut means = Mean::new(templates);
        means.add_embeds(siglip.text_embeds(ids))?;
        Self::of_sums(siglip, means.sums)
    }

    fn of_sums(siglip: &Siglip, sums: Vec<Vec<f64>>) -> Result<Self> {
        let shape = [sums.len(), sums.first().map_or(0, Vec::len)];
        let unit = |sum: Vec<f64>| {
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            sum.into_iter().map(move |x| (x / length) as f32)
        };
        let values: Vec<f32> = sums.into_iter().flat_map(unit).collect();
        let device = siglip.logit_scale.val().device();
        let classes = Tensor::from_data(TensorData::new(values, shape), &device);
        Ok(Self { classes })
    }

    /// How many there are.
    pub fn classes(&self) -> usize {
        self.classes.dims()[0]
    }

    /// How near pictures are to the classes: unit vectors `[pictures, C]` -> cosines `[pictures, classes]`.
    ///
    /// The logits of a classifier are these times a positive number, which changes no order.
    pub fn cosines(&self, pictures: Tensor<2>) -> Tensor<2> {
        let pictures = pictures.cast(self.classes.dtype());
        pictures.matmul(self.classes.clone().transpose())
    }
}

/// The texts of the classes as they come, added up class by class.
struct Mean {
    templates: usize,
    texts: usize,
    sums: Vec<Vec<f64>>,
}

impl Mean {
    fn new(templates: usize) -> Self {
        Self {
            templates,
            texts: 0,
            sums: Vec::new(),
        }
    }

    fn add(&mut self, siglip: &Siglip, ids: Vec<Vec<i64>>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let shape = [ids.len(), ids[0].len()];
        let ids = TensorData::new(ids.concat(), shape);
        let ids = Tensor::from_data(ids, &siglip.logit_scale.val().device());
        self.add_embeds(siglip.text_embeds(ids))
    }

    /// Unit vectors `[texts, C]`.
    fn add_embeds(&mut self, embeds: Tensor<2>) -> Result<()> {
        let [_, width] = embeds.dims();
        for embed in read_floats(embeds)?.chunks_exact(width) {
            if self.texts.is_multiple_of(self.templates) {
                self.sums.push(vec![0.0; width]);
            }
            self.texts += 1;
            let sum = self.sums.last_mut().into_iter().flatten();
            sum.zip(embed).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        Ok(())
    }
}

/// The unit vectors of pictures by what is left of their features.
#[derive(Clone, Debug)]
pub struct PictureEmbeds {
    /// From the features before they are quantized, as in plain SigLIP, `[pictures, C]`.
    pub unquantized: Tensor<2>,
    /// From the first code of each position, the first two, and so on to all D of them, each `[pictures, C]`.
    pub by_depth: Vec<Tensor<2>>,
}

impl PictureEmbeds {
    /// Of pixels `[pictures, 3, size, size]` in -1..1.
    pub fn new(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
        let features = tower.features(pixels);
        let quantized = tower.quantize(features.clone());
        let mut by_depth = tower.quantizer.features_by_depth(quantized.codes);
        // The sum of all codes as everything else sees it.
        by_depth.pop();
        by_depth.push(quantized.z_q);
        let dtype = features.dtype();
        let embeds = |features: Tensor<4>| tower.feature_embeds(features.cast(dtype));
        Self {
            by_depth: by_depth.into_iter().map(embeds).collect(),
            unquantized: embeds(features),
        }
    }
}

/// How many classes come before the right one in the order of falling scores; of equal scores the first class comes
/// first. Below k, the right class is one of the k best.
///
/// None where a score is no finite number.
pub fn rank(scores: &[f32], right: usize) -> Option<usize> {
    let own = *scores.get(right)?;
    if !scores.iter().all(|score| score.is_finite()) {
        return None;
    }
    let before = scores.iter().enumerate();
    let before = before.filter(|(class, score)| **score > own || **score == own && *class < right);
    Some(before.count())
}

/// The class with the highest score, the first of equal ones.
pub fn best(scores: &[f32]) -> usize {
    let all = scores.iter().enumerate();
    all.fold(
        0,
        |best, (class, score)| if *score > scores[best] { class } else { best },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_are_in_the_order_of_the_classes() {
        let scores = [0.5, 0.9, 0.5, -1.0, 0.5];
        let ranks: Vec<_> = (0..5).map(|right| rank(&scores, right)).collect();
        assert_eq!(ranks, [Some(1), Some(0), Some(2), Some(4), Some(3)]);
        assert_eq!(best(&scores), 1);
        assert_eq!(best(&[0.2, 0.2]), 0);
        assert_eq!(rank(&[0.1, f32::NAN], 0), None);
        assert_eq!(rank(&[0.1], 1), None);
    }
}
