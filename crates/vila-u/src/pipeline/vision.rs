//! What the vision tower does without the language model: codes, reconstruction, matching with texts.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::softmax};
use image::RgbImage;

use super::{Codes, Features, Model, Pipeline};
use crate::{
    Error, Result,
    checkpoint::{Files, config::siglip_tokenizer},
    device::read_floats,
    evaluation::metrics::{psnr, ssim},
    media::{Picture, preprocess::ResizeMode, to_images, to_tensor},
    tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig},
};

/// An image as the language model sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Encoded {
    pub codes: Codes,
    /// What the codes stand for.
    pub features: Features,
}

/// An image through codes and back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reconstruction {
    /// The image as the model sees it: a square of its size.
    pub original: RgbImage,
    pub image: RgbImage,
    /// Peak signal-to-noise ratio in dB; nothing where the decoder's images have another size.
    pub psnr: Option<f64>,
    /// Structural similarity, at most 1; nothing also of images smaller than 11 pixels.
    pub ssim: Option<f64>,
}

/// The parts of a model that see.
pub(super) struct Vision<'a> {
    pub tower: &'a RqVaeSiglip,
    pub config: &'a RqVaeSiglipConfig,
    pub siglip: &'a SiglipConfig,
    files: &'a Files,
}

impl Vision<'_> {
    pub(super) fn device(&self) -> Device {
        self.tower.post_quant_conv.weight.device()
    }

    /// `[1, 3, size, size]` in -1..1
    fn pixels(&self, image: &Picture) -> Result<Tensor<4>> {
        let size = self.siglip.vision_config.image_size;
        to_tensor(image, size, ResizeMode::Stretch, &self.device())
    }

    /// Unit vectors `[texts, C]`.
    fn text_embeds(&self, texts: &[impl AsRef<str>]) -> Result<Tensor<2>> {
        let tokenizer = siglip_tokenizer(self.files, self.config, self.siglip)?;
        let ids: Vec<i64> = texts
            .iter()
            .flat_map(|text| tokenizer.encode(text.as_ref()))
            .collect();
        let shape = [texts.len(), ids.len() / texts.len().max(1)];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device());
        Ok(self.tower.text_embeds(ids))
    }
}

/// Labels that images are classified by; see [`Pipeline::zero_shot_classifier`].
pub struct ZeroShotClassifier<'a> {
    vision: Vision<'a>,
    /// `[labels, C]`
    labels: Tensor<2>,
}

impl ZeroShotClassifier<'_> {
    /// The probability of each label, in their order; together 1.
    pub fn classify(&self, image: impl Into<Picture>) -> Result<Vec<f32>> {
        let tower = self.vision.tower;
        let image = tower.image_embeds(self.vision.pixels(&image.into())?, true);
        let logits = tower
            .siglip_model
            .logits_per_image(image, self.labels.clone());
        read_floats(softmax(logits, 1))
    }
}

impl Pipeline {
    /// The codes of an image, and the features that they stand for.
    ///
    /// A usage error for an image without pixels.
    ///
    /// ```
    /// # use vila_u::{Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let encoded = pipeline.encode(RgbImage::new(64, 64))?;
    /// assert_eq!(encoded.codes.shape(), [8, 8, 4]);
    /// println!("top left: {:?}", encoded.codes.at(0, 0));
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn encode(&self, image: impl Into<Picture>) -> Result<Encoded> {
        let vision = self.vision();
        let quantized = vision.tower.encode(vision.pixels(&image.into())?);
        let codes = Codes::read(quantized.codes)?.into_iter().next();
        let features = Features::read(quantized.z_q)?.into_iter().next();
        match (codes, features) {
            (Some(codes), Some(features)) => Ok(Encoded { codes, features }),
            _ => Err(Error::failed("the model has no codes for an image")),
        }
    }

    /// The image that codes stand for.
    ///
    /// A usage error when they are not this model's: of another shape, or not in `0..codebook_size`.
    ///
    /// ```
    /// # use vila_u::{Codes, Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let codes = Codes::new([8, 8, 4], vec![0; 256])?;
    /// assert_eq!(pipeline.decode(&codes)?.dimensions(), (64, 64));
    /// assert!(pipeline.decode(&Codes::new([8, 8, 4], vec![1 << 62; 256])?).is_err());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn decode(&self, codes: &Codes) -> Result<RgbImage> {
        self.check(codes)?;
        let vision = self.vision();
        one_image(vision.tower.decode_codes(codes.tensor(&vision.device()))?)
    }

    /// The images that the first code of each position stands for, the first two, and so on to all of them, which is
    /// [`Self::decode`]'s.
    ///
    /// A usage error as there.
    ///
    /// ```
    /// # use vila_u::{Codes, Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let codes = pipeline.encode(RgbImage::new(64, 64))?.codes;
    /// let images = pipeline.decode_by_depth(&codes)?;
    /// assert_eq!(images.len(), 4);
    /// assert_eq!(images[3], pipeline.decode(&codes)?);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn decode_by_depth(&self, codes: &Codes) -> Result<Vec<RgbImage>> {
        self.check(codes)?;
        let vision = self.vision();
        let codes = codes.tensor(&vision.device());
        vision.tower.quantizer.check(&codes)?;
        let features = vision.tower.quantizer.features_by_depth(codes).into_iter();
        features
            .map(|features| one_image(vision.tower.decode(features)))
            .collect()
    }

    /// Refuses codes that are not in `0..codebook_size`, before they become numbers of the device, which may be
    /// narrower.
    fn check(&self, codes: &Codes) -> Result<()> {
        let size = self.codebook_size();
        let known = |code: &&i64| usize::try_from(**code).is_ok_and(|code| code < size);
        match codes.values().iter().find(|code| !known(code)) {
            Some(code) => Err(Error::usage(format!(
                "code {code} is not one of this model's, which are 0 to {}",
                size.saturating_sub(1)
            ))),
            None => Ok(()),
        }
    }

    /// An image through codes and back, and how close it comes.
    ///
    /// A usage error for an image without pixels.
    ///
    /// ```
    /// # use vila_u::{Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let back = pipeline.reconstruct(RgbImage::new(64, 64))?;
    /// assert!(back.psnr.is_some_and(|psnr| psnr > 10.0));
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn reconstruct(&self, image: impl Into<Picture>) -> Result<Reconstruction> {
        let vision = self.vision();
        let pixels = vision.pixels(&image.into())?;
        let image = one_image(vision.tower.decode(vision.tower.encode(pixels.clone()).z_q))?;
        let original = one_image(pixels)?;
        Ok(Reconstruction {
            psnr: psnr(&original, &image),
            ssim: ssim(&original, &image),
            original,
            image,
        })
    }

    /// How probable each label is as the description of an image, in their order; together 1.
    ///
    /// A usage error for fewer than two labels and for an image without pixels.
    ///
    /// ```
    /// # use vila_u::{Pipeline, image::{Rgb, RgbImage}};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let image = RgbImage::from_pixel(64, 64, Rgb([38, 98, 217]));
    /// let probabilities = pipeline.classify(image, &["a heart on a blue background", "a dog"])?;
    /// assert_eq!(probabilities.len(), 2);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn classify(
        &self,
        image: impl Into<Picture>,
        labels: &[impl AsRef<str>],
    ) -> Result<Vec<f32>> {
        self.zero_shot_classifier(labels)?.classify(image)
    }

    /// The same of many images: the labels are read once.
    ///
    /// ```
    /// # use vila_u::{Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let classifier = pipeline.zero_shot_classifier(&["a heart", "a dog"])?;
    /// for image in [RgbImage::new(64, 64), RgbImage::new(9, 9)] {
    ///     println!("{:?}", classifier.classify(image)?);
    /// }
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn zero_shot_classifier(
        &self,
        labels: &[impl AsRef<str>],
    ) -> Result<ZeroShotClassifier<'_>> {
        if labels.len() < 2 {
            return Err(Error::usage("give at least two labels to classify by"));
        }
        let vision = self.vision();
        let labels = vision.text_embeds(labels)?;
        Ok(ZeroShotClassifier { vision, labels })
    }

    /// The unit vector of an image in the space that it shares with texts: the dot product with that of a text is
    /// how well they match, -1 to 1. As the language model sees the image, through its codes.
    ///
    /// ```
    /// # use vila_u::{Pipeline, image::RgbImage};
    /// # let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// let image = pipeline.embed_image(RgbImage::new(64, 64))?;
    /// let text = pipeline.embed_text("a black picture")?;
    /// let cosine: f32 = image.iter().zip(&text).map(|(a, b)| a * b).sum();
    /// assert!(cosine.abs() <= 1.001);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn embed_image(&self, image: impl Into<Picture>) -> Result<Vec<f32>> {
        let vision = self.vision();
        read_floats(
            vision
                .tower
                .image_embeds(vision.pixels(&image.into())?, true),
        )
    }

    /// The unit vector of a text in the space that it shares with images; see [`Self::embed_image`].
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::builder("nano").vision_only().build()?;
    /// let text = pipeline.embed_text("a red heart")?;
    /// assert!((text.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>> {
        read_floats(self.vision().text_embeds(&[text])?)
    }

    pub(super) fn vision(&self) -> Vision<'_> {
        match &self.model {
            Model::Whole(checkpoint) => Vision {
                tower: &checkpoint.model.vision_tower.rqvaesiglip,
                config: &checkpoint.config.vision_tower.rqvaesiglip,
                siglip: &checkpoint.config.siglip,
                files: &checkpoint.files,
            },
            Model::Vision(tower) => Vision {
                tower: &tower.model,
                config: &tower.config,
                siglip: &tower.siglip,
                files: &tower.files,
            },
        }
    }
}

/// Of pixels `[1, 3, H, W]`.
fn one_image(pixels: Tensor<4>) -> Result<RgbImage> {
    let image = to_images(pixels)?.into_iter().next();
    image.ok_or_else(|| Error::failed("the model has no pixels for an image"))
}
