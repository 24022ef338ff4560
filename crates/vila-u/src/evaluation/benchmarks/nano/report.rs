//! What the nano benchmark measured, as a table and as files.

use std::{collections::BTreeMap, fmt, path::Path};

use image::RgbImage;
use serde::Serialize;

use super::Options;
use crate::{
    Result,
    data::nano::{Kind, Split},
    evaluation::{
        metrics::{CodeUse, Estimate},
        record::{
            Interval::{Bootstrap, Wilson},
            Metric,
        },
    },
    media,
};

/// Shares are parts of one; every estimate has its 95 % interval and n. What was not measured is left out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub split: Split,
    pub seed: u64,
    /// Scenes of known objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<Quality>,
    /// Emoji that no scene is made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconstruction_new_emoji: Option<Quality>,
    /// Of the codebook, at each depth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codebook: Option<Vec<CodeUse>>,
    /// The right caption of 100, by quantized features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<Estimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<Answers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_questions: Option<Answers>,
    /// About two pictures that differ in one thing: in what, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparisons: Option<Answers>,
    /// Without a picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub riddles: Option<Answers>,
    /// Images made from captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generated>,
    /// Videos through codes and back: what can be seen of them at best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_reconstruction: Option<GeneratedVideos>,
    /// Videos made from captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_generation: Option<GeneratedVideos>,
    /// Names and pictures: originals above reconstructions, and what was generated in the order of captions.
    #[serde(skip)]
    pub sheets: Vec<(&'static str, RgbImage)>,
}

/// How close reconstructions are to their originals.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    /// dB
    pub psnr: Estimate,
    pub ssim: Estimate,
}

/// Answers that are exactly right, all together and by kind of question.
#[derive(Clone, Debug, Serialize)]
pub struct Answers {
    pub all: Estimate,
    pub by_kind: BTreeMap<Kind, Estimate>,
}

/// Generated images read back from their pixels.
#[derive(Clone, Debug, Serialize)]
pub struct Generated {
    /// The named object explains the picture better than any other.
    pub object: Estimate,
    pub background: Estimate,
    pub count: Estimate,
}

/// Videos read back from their frames.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratedVideos {
    /// The named object explains every frame better than any other.
    pub object: Estimate,
    /// Every frame has the named background.
    pub background: Estimate,
    /// The object moves, grows, shrinks or turns as the caption says.
    pub motion: Estimate,
}

impl Report {
    /// Of what nothing has been measured yet.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            split: options.split,
            seed: options.seed,
            reconstruction: None,
            reconstruction_new_emoji: None,
            codebook: None,
            matching: None,
            questions: None,
            video_questions: None,
            comparisons: None,
            riddles: None,
            generation: None,
            video_reconstruction: None,
            video_generation: None,
            sheets: Vec::new(),
        }
    }

    /// Everything that was measured, by names such as `generation.object`.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (name, quality) in [
            ("reconstruction", &self.reconstruction),
            ("reconstruction_new_emoji", &self.reconstruction_new_emoji),
        ] {
            if let Some(Quality { psnr, ssim }) = quality {
                metrics.push(Metric::estimate(format!("{name}.psnr"), *psnr, Bootstrap));
                metrics.push(Metric::estimate(format!("{name}.ssim"), *ssim, Bootstrap));
            }
        }
        let mut share = |name: String, estimate: Estimate| {
            metrics.push(Metric::estimate(name, estimate, Wilson));
        };
        if let Some(matching) = self.matching {
            share("matching".into(), matching);
        }
        for (name, answers) in [
            ("questions", &self.questions),
            ("video_questions", &self.video_questions),
            ("comparisons", &self.comparisons),
            ("riddles", &self.riddles),
        ] {
            if let Some(Answers { all, by_kind }) = answers {
                share(name.into(), *all);
                for (kind, estimate) in by_kind {
                    share(format!("{name}.{}", kind.name()), *estimate);
                }
            }
        }
        if let Some(image) = &self.generation {
            share("generation.object".into(), image.object);
            share("generation.background".into(), image.background);
            share("generation.count".into(), image.count);
        }
        for (name, video) in [
            ("video_reconstruction", &self.video_reconstruction),
            ("video_generation", &self.video_generation),
        ] {
            if let Some(video) = video {
                share(format!("{name}.object"), video.object);
                share(format!("{name}.background"), video.background);
                share(format!("{name}.motion"), video.motion);
            }
        }
        metrics
    }

    /// Writes every contact sheet as a PNG file into an existing folder.
    pub fn save_sheets(&self, folder: &Path) -> Result<()> {
        for (name, picture) in &self.sheets {
            media::save_png(&folder.join(format!("{name}.png")), picture)?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        let mut line = |name: String, value: String| lines.push(format!("{name:<32}{value}"));
        for (title, quality) in [
            ("reconstruction", &self.reconstruction),
            ("new emoji", &self.reconstruction_new_emoji),
        ] {
            if let Some(Quality { psnr, ssim }) = quality {
                line(format!("{title} PSNR"), decibel(psnr));
                line(format!("{title} SSIM"), ssim.to_string());
            }
        }
        for (depth, code_use) in self.codebook.iter().flatten().enumerate() {
            let CodeUse { used, perplexity } = code_use;
            line(
                format!("codebook, depth {}", depth + 1),
                format!("{:6.1} %  used, perplexity {perplexity:.0}", 100.0 * used),
            );
        }
        if let Some(matching) = &self.matching {
            line("caption matching, 100-way".into(), percent(matching));
        }
        for (title, answers) in [
            ("answers about images", &self.questions),
            ("answers about videos", &self.video_questions),
            ("comparisons", &self.comparisons),
            ("riddles", &self.riddles),
        ] {
            if let Some(Answers { all, by_kind }) = answers {
                line(title.into(), percent(all));
                for (kind, share) in by_kind {
                    line(format!("  {}", kind.name()), percent(share));
                }
            }
        }
        if let Some(image) = &self.generation {
            line("generated image: object".into(), percent(&image.object));
            line(
                "generated image: background".into(),
                percent(&image.background),
            );
            line("generated image: count".into(), percent(&image.count));
        }
        for (title, video) in [
            ("video through codes", &self.video_reconstruction),
            ("generated video", &self.video_generation),
        ] {
            if let Some(video) = video {
                line(format!("{title}: object"), percent(&video.object));
                line(format!("{title}: background"), percent(&video.background));
                line(format!("{title}: motion"), percent(&video.motion));
            }
        }
        f.write_str(&lines.join("\n"))
    }
}

fn decibel(estimate: &Estimate) -> String {
    let Estimate {
        value,
        low,
        high,
        n,
    } = estimate;
    format!("{value:6.2} dB [{low:.2}, {high:.2}], n = {n}")
}

fn percent(estimate: &Estimate) -> String {
    let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|part| 100.0 * part);
    format!("{value:6.1} %  [{low:.1}, {high:.1}], n = {}", estimate.n)
}
