//! `eval nano`: every ability of a model on scenes held out from training.
//!
//! Ground truth is exact, so every number is a count of right and wrong or a distance in pixels. A split of the nano
//! world has combinations of its own: [`Split::Test`] is what is reported, [`Split::Validation`] what choices are made
//! by, and the same measures on [`Split::Train`] say what a model knows by heart.

pub mod fit;
mod images;
mod questions;
mod report;
mod videos;
pub mod watch;

use burn::tensor::{Device, Tensor};
use image::RgbImage;

pub use report::{Answers, Generated, GeneratedVideos, Quality, Report};

use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    data::nano::{Scene, Split, Video},
    evaluation::metrics::{Estimate, code_use, share},
    media,
};

/// Gets what is under way, how much of it is done, and of how much; `false` stops the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;

/// One of the abilities that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Scenes and new emoji through codes and back, and which codes are used.
    Reconstruction,
    /// The right caption of 100, by quantized features.
    Matching,
    /// Answers about pictures.
    Questions,
    /// Answers about videos.
    VideoQuestions,
    /// Answers about two pictures that differ in one thing.
    Comparisons,
    /// Answers to questions without pictures.
    Riddles,
    /// Images from captions.
    Generation,
    /// Videos through codes and back.
    VideoReconstruction,
    /// Videos from captions.
    VideoGeneration,
}

impl Measure {
    pub const ALL: [Self; 9] = [
        Self::Reconstruction,
        Self::Matching,
        Self::Questions,
        Self::VideoQuestions,
        Self::Comparisons,
        Self::Riddles,
        Self::Generation,
        Self::VideoReconstruction,
        Self::VideoGeneration,
    ];

    /// As on the command line: "video-questions".
    pub fn name(self) -> &'static str {
        match self {
            Self::Reconstruction => "reconstruction",
            Self::Matching => "matching",
            Self::Questions => "questions",
            Self::VideoQuestions => "video-questions",
            Self::Comparisons => "comparisons",
            Self::Riddles => "riddles",
            Self::Generation => "generation",
            Self::VideoReconstruction => "video-reconstruction",
            Self::VideoGeneration => "video-generation",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let all = Self::ALL.into_iter();
        all.into_iter()
            .find(|measure| measure.name() == name)
            .ok_or_else(|| Error::usage(format!("nothing is measured by the name {name}")))
    }
}

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    pub split: Split,
    /// Scenes, videos, comparisons and riddles for each measure.
    pub n: usize,
    pub seed: u64,
    pub measures: Vec<Measure>,
}

/// Measures what the options ask for: reconstruction on `n` scenes and `n` pictures of new emoji, matching on at least
/// `n` captions, all questions about `n` scenes, `n` videos, `n` comparisons of two scenes and `n` riddles without
/// pictures, `n` images made from captions, and `n` videos, through codes and back, and made from captions.
///
/// Questions are answered greedily; images and videos are sampled and guided as the model's own settings say.
///
/// A usage error when nothing is asked for, [`Error::Interrupted`] when `on_progress` stops it.
pub fn run(checkpoint: &Checkpoint, options: &Options, on_progress: OnProgress) -> Result<Report> {
    let &Options { split, n, seed, .. } = options;
    if n == 0 || options.measures.is_empty() {
        return Err(Error::usage(
            "an evaluation needs at least one scene and one measure",
        ));
    }
    checkpoint.generation.visual(seed).check()?;
    let mut bench = Bench {
        checkpoint,
        device: checkpoint.model.llm.device(),
        size: checkpoint.config.siglip.vision_config.image_size,
        split,
        seed,
        on_progress,
    };
    let mut report = Report::new(options);
    let scenes = || (0..n as u64).map(|index| Scene::sample(split, seed, index));
    let videos = || (0..n as u64).map(|index| Video::sample(split, seed, index));
    for measure in Measure::ALL {
        if !options.measures.contains(&measure) {
            continue;
        }
        match measure {
            Measure::Reconstruction => {
                let scenes: Vec<_> = scenes().collect();
                let gallery: Vec<_> = (0..n as u64)
                    .map(|index| Scene::sample_gallery(split, seed, index))
                    .collect();
                let mut codes = Vec::new();
                let (quality, known) = bench.reconstruct("reconstruction", &scenes, &mut codes)?;
                report.reconstruction = Some(quality);
                let (quality, new) = bench.reconstruct("new emoji", &gallery, &mut codes)?;
                report.reconstruction_new_emoji = Some(quality);
                let tower = &checkpoint.config.vision_tower.rqvaesiglip;
                let [.., depth] = tower.code_shape;
                report.codebook = Some(code_use(&codes, depth, tower.n_embed));
                report
                    .sheets
                    .extend([("reconstruction", known), ("new-emoji", new)]);
            }
            Measure::Matching => report.matching = Some(bench.matching(n)?),
            Measure::Questions => report.questions = Some(bench.questions(scenes())?),
            Measure::VideoQuestions => {
                report.video_questions = Some(bench.video_questions(videos())?);
            }
            Measure::Comparisons => report.comparisons = Some(bench.comparisons(n)?),
            Measure::Riddles => report.riddles = Some(bench.riddles(n)?),
            Measure::Generation => {
                let (generated, sheet) = bench.generation(n)?;
                report.generation = Some(generated);
                report.sheets.push(("generated", sheet));
            }
            Measure::VideoReconstruction => {
                let videos: Vec<_> = videos().collect();
                report.video_reconstruction = Some(bench.video_reconstruction(&videos)?);
            }
            Measure::VideoGeneration => {
                let videos: Vec<_> = videos().collect();
                let (generated, sheet) = bench.video_generation(&videos)?;
                report.video_generation = Some(generated);
                report.sheets.push(("generated-videos", sheet));
            }
        }
    }
    Ok(report)
}

/// The share that is right.
fn right_of(right: &[bool]) -> Estimate {
    share(right.iter().filter(|right| **right).count(), right.len())
}

struct Bench<'a> {
    checkpoint: &'a Checkpoint,
    device: Device,
    /// Width and height of the pictures the tower reads.
    size: usize,
    split: Split,
    seed: u64,
    on_progress: OnProgress<'a>,
}

impl Bench<'_> {
    fn progress(&mut self, what: &str, done: usize, total: usize) -> Result<()> {
        if (self.on_progress)(what, done, total) {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    }

    /// `[pictures, 3, size, size]` in -1..1
    fn pixels(&self, pictures: &[RgbImage]) -> Tensor<4> {
        media::stack(pictures, self.size, &self.device)
    }

    fn render(&self, scenes: &[Scene]) -> Vec<RgbImage> {
        let size = self.size as u32;
        scenes.iter().map(|scene| scene.render(size)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        checkpoint::{Files, config},
        text::Tokenizer,
    };

    /// A small model with the nano vocabularies, not trained.
    fn untrained(folder: &Path) -> Checkpoint {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (tiny, nano) = (
            root.join("tests/golden/tiny-d4/checkpoint"),
            root.join("../../models/nano"),
        );
        let tokenizer = Tokenizer::from_dir(&nano.join("llm")).unwrap();
        let words = fs::read_to_string(nano.join("llm/config.json")).unwrap();
        let words: serde_json::Value = serde_json::from_str(&words).unwrap();
        let words = format!("\"vocab_size\": {}", words["vocab_size"]);
        for (part, from, to) in [
            ("", "", ""),
            ("llm/", "\"vocab_size\": 604", words.as_str()),
            ("mm_projector/", "", ""),
            ("vision_tower/", "", ""),
            ("siglip/", "\"vocab_size\": 300", "\"vocab_size\": 512"),
        ] {
            fs::create_dir_all(folder.join(part)).unwrap();
            let name = format!("{part}config.json");
            let text = fs::read_to_string(tiny.join(&name)).unwrap();
            fs::write(folder.join(&name), text.replacen(from, to, 1)).unwrap();
        }
        fs::copy(
            nano.join("siglip/spiece.model"),
            folder.join("siglip/spiece.model"),
        )
        .unwrap();
        let files = Files::folder(folder);
        let config = config::read(&files).unwrap();
        Checkpoint {
            model: config.init(&Device::flex()),
            generation: config::GenerationConfig::default(),
            tokenizer,
            files,
            config,
        }
    }

    #[test]
    fn reports_every_measure() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = untrained(folder.path());
        let mut options = Options {
            split: Split::Test,
            n: 2,
            seed: 0,
            measures: Measure::ALL.to_vec(),
        };
        let report = run(&checkpoint, &options, &mut |_, done, total| done <= total).unwrap();
        let value = serde_json::to_value(&report).unwrap();
        let n = |path: &str| {
            value
                .pointer(path)
                .and_then(|n| n.as_u64())
                .unwrap_or_else(|| unreachable!("{path} is not in {value}"))
        };
        for (path, count) in [
            ("/reconstruction/psnr/n", 2),
            ("/matching/n", 100),
            ("/generation/object/n", 2),
            ("/generation/count/n", 2),
            ("/video_questions/all/n", 14),
            ("/video_generation/motion/n", 2),
            ("/comparisons/by_kind/aspect/n", 2),
            ("/riddles/all/n", 2),
        ] {
            assert_eq!(n(path), count, "{path}");
        }
        assert!(n("/questions/all/n") >= 8);
        assert!(value["questions"]["by_kind"].as_object().unwrap().len() >= 4);
        assert_eq!(value["codebook"].as_array().unwrap().len(), 4);
        assert_eq!(value["split"], "test");
        // An untrained model is right by chance only.
        assert!(report.matching.unwrap().value < 0.1);
        assert!(report.reconstruction.as_ref().unwrap().psnr.value < 20.0);
        report.save_sheets(folder.path()).unwrap();
        for sheet in ["reconstruction", "generated", "generated-videos"] {
            assert!(folder.path().join(sheet).with_extension("png").is_file());
        }
        let table = report.to_string();
        assert!(
            table.contains("generated video: motion") && table.contains("n = 100"),
            "{table}"
        );

        let stopped = run(&checkpoint, &options, &mut |_, _, _| false);
        assert!(matches!(stopped, Err(Error::Interrupted)));
        options.measures = vec![Measure::Riddles];
        let riddles = run(&checkpoint, &options, &mut |_, _, _| true).unwrap();
        let value = serde_json::to_value(&riddles).unwrap();
        assert_eq!(value["riddles"]["all"]["n"], 2);
        assert!(value.get("generation").is_none() && value.get("matching").is_none());
        checkpoint.generation.visual_guidance = f64::NAN;
        let unguided = run(&checkpoint, &options, &mut |_, _, _| true);
        assert!(matches!(unguided, Err(Error::Usage(_))));
    }

    #[test]
    fn measures_have_names() {
        for measure in Measure::ALL {
            assert_eq!(Measure::parse(measure.name()).unwrap(), measure);
        }
        assert!(matches!(Measure::parse("drawing"), Err(Error::Usage(_))));
    }
}
