//! `eval nano`: every ability of a model on scenes held out from training.
//!
//! Ground truth is exact, so every number is a count of right and wrong or a distance in pixels.

pub mod fit;
mod report;
mod videos;
pub mod watch;

use std::{collections::BTreeMap, ops::ControlFlow};

use burn::tensor::{Device, Int, Tensor, TensorData};
use image::RgbImage;
use rayon::prelude::*;

pub use report::{Drawing, Quality, Report, VideoDrawing};

use crate::{
    Error, Result,
    checkpoint::{Checkpoint, config::siglip_tokenizer},
    data::nano::{Comparison, Kind, Layout, Question, Scene, Split, Video, riddle},
    device::read_ints,
    evaluation::metrics::{Estimate, code_use, mean, psnr, share, ssim},
    generation::{
        batch::Prompt,
        chat::{generate_images, image_prompt},
        sampling::Sampling,
        text::{self, TextOptions},
    },
    media::{self, sheet, to_images},
    sequence::{Sample, SequenceLayout},
    text::conversation::{self, Reply, Turn},
};

/// Captions an image is matched with.
const WAYS: usize = 100;
/// Pictures the model works on at once.
const BATCH: usize = 16;
/// Pictures on a contact sheet, and in one of its rows.
const SHOWN: usize = 48;
const ACROSS: usize = 12;

/// Gets what is under way, how much of it is done, and of how much; `false` stops the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;

/// Measures reconstruction on `n` scenes and `n` pictures of new emoji, matching on at least `n`
/// captions, all questions about `n` scenes, `n` videos, `n` comparisons of two scenes and `n` riddles
/// without pictures, `n` drawings, and `n` videos, through codes and back, and made from captions.
///
/// Questions are answered greedily; drawings are sampled and guided as the model's own settings say.
pub fn run(
    checkpoint: &Checkpoint,
    n: usize,
    seed: u64,
    on_progress: OnProgress,
) -> Result<Report> {
    if n == 0 {
        return Err(Error::usage("an evaluation needs at least one scene"));
    }
    checkpoint.generation.visual(seed).check()?;
    let mut bench = Bench {
        checkpoint,
        device: checkpoint.model.llm.device(),
        size: checkpoint.config.siglip.vision_config.image_size,
        seed,
        on_progress,
    };
    let scenes = bench.scenes(n);
    let gallery: Vec<Scene> = (0..n as u64)
        .map(|index| Scene::sample_gallery(Split::HeldOut, seed, index))
        .collect();
    let mut codes = Vec::new();
    let (reconstruction, known) = bench.reconstruct("reconstruction", &scenes, &mut codes)?;
    let (reconstruction_new_emoji, new) = bench.reconstruct("new emoji", &gallery, &mut codes)?;
    let tower = &checkpoint.config.vision_tower.rqvaesiglip;
    let [.., depth] = tower.code_shape;
    let matching = bench.matching(n)?;
    let videos: Vec<Video> = (0..n as u64)
        .map(|index| Video::sample(Split::HeldOut, seed, index))
        .collect();
    let (answers, answers_by_kind) = bench.answers(&scenes)?;
    let (video_answers, video_answers_by_kind) = bench.video_answers(&videos)?;
    let comparisons = bench.comparisons(n)?;
    let riddles = bench.riddles(n)?;
    let (drawing, drawn) = bench.drawing(n)?;
    let video_reconstruction = bench.video_reconstruction(&videos)?;
    let (video, made) = bench.video_drawing(&videos)?;
    Ok(Report {
        reconstruction,
        reconstruction_new_emoji,
        codebook: code_use(&codes, depth, tower.n_embed),
        matching,
        answers,
        answers_by_kind,
        video_answers,
        video_answers_by_kind,
        comparisons,
        riddles,
        drawing,
        video_reconstruction,
        video,
        sheets: vec![
            ("reconstruction", known),
            ("new-emoji", new),
            ("drawings", drawn),
            ("videos", made),
        ],
    })
}

fn part(right: &[bool]) -> Estimate {
    share(right.iter().filter(|right| **right).count(), right.len())
}

/// The original in the size of what the decoder makes of it.
fn resized(original: &RgbImage, like: &RgbImage) -> RgbImage {
    let (width, height) = like.dimensions();
    media::resize::bicubic(original, width, height)
}

/// Answers that are exactly right: all together, and by kind of question.
type Answers = (Estimate, BTreeMap<Kind, Estimate>);

struct Bench<'a> {
    checkpoint: &'a Checkpoint,
    device: Device,
    /// Width and height of the pictures the tower reads.
    size: usize,
    seed: u64,
    on_progress: OnProgress<'a>,
}

impl Bench<'_> {
    fn scenes(&self, n: usize) -> Vec<Scene> {
        (0..n as u64)
            .map(|index| Scene::sample(Split::HeldOut, self.seed, index))
            .collect()
    }

    fn progress(&mut self, what: &str, done: usize, total: usize) -> Result<()> {
        match (self.on_progress)(what, done, total) {
            true => Ok(()),
            false => Err(Error::Interrupted),
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

    /// Encodes and decodes every scene; gathers the codes met. Also a contact sheet.
    fn reconstruct(
        &mut self,
        what: &str,
        scenes: &[Scene],
        codes: &mut Vec<i64>,
    ) -> Result<(Quality, RgbImage)> {
        let tower = &self.checkpoint.model.vision_tower.rqvaesiglip;
        let (mut psnrs, mut ssims, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (batch, scenes_now) in scenes.chunks(ACROSS).enumerate() {
            let originals = self.render(scenes_now);
            let quantized = tower.encode(self.pixels(&originals));
            let pictures = to_images(tower.decode(quantized.z_q))?;
            codes.extend(read_ints(quantized.codes)?);
            for (original, picture) in originals.iter().zip(&pictures) {
                let original = resized(original, picture);
                psnrs.push(psnr(&original, picture));
                ssims.push(ssim(&original, picture));
            }
            if rows.len() < 2 * SHOWN {
                rows.extend(originals);
                rows.extend(pictures);
            }
            let done = (batch * ACROSS + scenes_now.len()).min(scenes.len());
            self.progress(what, done, scenes.len())?;
        }
        let quality = Quality {
            psnr: mean(&psnrs),
            ssim: mean(&ssims),
        };
        Ok((quality, sheet::grid(&rows, ACROSS)))
    }

    /// Groups of 100 scenes that differ in caption and picture: is the caption nearest to an image
    /// its own?
    fn matching(&mut self, n: usize) -> Result<Estimate> {
        let config = &self.checkpoint.config;
        let tokenizer = siglip_tokenizer(
            &self.checkpoint.files,
            &config.vision_tower.rqvaesiglip,
            &config.siglip,
        )?;
        let tower = &self.checkpoint.model.vision_tower.rqvaesiglip;
        let groups = n.div_ceil(WAYS);
        let mut right = Vec::new();
        let mut next = 0;
        for group in 0..groups {
            let (mut captions, mut pictures) = (Vec::new(), Vec::new());
            while captions.len() < WAYS {
                let scene = Scene::sample(Split::HeldOut, self.seed, next);
                next += 1;
                let (caption, picture) = (scene.caption(), scene.render(self.size as u32));
                if !captions.contains(&caption) && !pictures.contains(&picture) {
                    captions.push(caption);
                    pictures.push(picture);
                }
            }
            let ids: Vec<i64> = captions.iter().flat_map(|c| tokenizer.encode(c)).collect();
            let shape = [WAYS, ids.len() / WAYS];
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device);
            let texts = tower.text_embeds(ids);
            for (batch, pictures) in pictures.chunks(BATCH).enumerate() {
                let images = tower.image_embeds(self.pixels(pictures), true);
                let nearest = images.matmul(texts.clone().transpose()).argmax(1);
                let found = read_ints(nearest)?.into_iter();
                right.extend(found.zip(batch * BATCH..).map(|(at, own)| at == own as i64));
                self.progress("matching", group * WAYS + batch * BATCH, groups * WAYS)?;
            }
        }
        Ok(part(&right))
    }

    /// Asks every question about every scene: how many answers are exactly right, all and by kind.
    fn answers(&mut self, scenes: &[Scene]) -> Result<Answers> {
        let asked = scenes.iter().map(|scene| {
            let pictures = self.render(std::slice::from_ref(scene));
            (scene.questions(), pictures)
        });
        let asked: Vec<_> = asked.collect();
        self.ask("answers", &asked)
    }

    /// The same of pairs of pictures that differ in one thing, by kind.
    fn comparisons(&mut self, n: usize) -> Result<BTreeMap<Kind, Estimate>> {
        let asked = (0..n as u64).map(|index| {
            let found = Comparison::sample(Split::HeldOut, self.seed, index);
            (found.questions(), self.render(&found.scenes))
        });
        let asked: Vec<_> = asked.collect();
        Ok(self.ask("comparisons", &asked)?.1)
    }

    /// The same of questions without pictures.
    fn riddles(&mut self, n: usize) -> Result<BTreeMap<Kind, Estimate>> {
        let asked = |index| vec![riddle(Split::HeldOut, self.seed, index)];
        let asked: Vec<_> = (0..n as u64)
            .map(|index| (asked(index), Vec::new()))
            .collect();
        Ok(self.ask("riddles", &asked)?.1)
    }

    /// Asks questions about the pictures beside them.
    fn ask(&mut self, what: &str, asked: &[(Vec<Question>, Vec<RgbImage>)]) -> Result<Answers> {
        let Checkpoint {
            model, tokenizer, ..
        } = self.checkpoint;
        let options = TextOptions {
            sampling: Sampling::GREEDY,
            seed: self.seed,
            max_tokens: 32,
            stop: vec![tokenizer.eos_token_id()],
        };
        let mut right = BTreeMap::<Kind, Vec<bool>>::new();
        for (index, (questions, pictures)) in asked.iter().enumerate() {
            let mut samples = Vec::new();
            for question in questions {
                let text = conversation::question(&question.question, pictures.len())?;
                let prompt =
                    conversation::generation_prompt(&[Turn::human(text)], Reply::Text, true)?;
                samples.push(Sample::prompt(&tokenizer.encode_prompt(&prompt)));
            }
            let visual = (!pictures.is_empty()).then(|| {
                let visual = model.visual_embeds(self.pixels(pictures));
                visual.repeat_dim(0, questions.len())
            });
            let rows = SequenceLayout::left_padded(&samples, model.image_tokens());
            let embeds = rows.embeddings(&model.llm, visual);
            let lengths = samples
                .iter()
                .map(|s| s.length(model.image_tokens()))
                .collect();
            let prompt = Prompt::new(embeds, lengths)?;
            let written = text::generate(&model.llm, prompt, &options, &mut |_, _| {
                ControlFlow::Continue(())
            })?;
            for (question, tokens) in questions.iter().zip(written) {
                let answer = tokenizer.decode(&tokens);
                let kind = right.entry(question.kind).or_default();
                kind.push(answer.trim() == question.answer);
            }
            self.progress(what, index + 1, asked.len())?;
        }
        let all: Vec<bool> = right.values().flatten().copied().collect();
        let by_kind = right.iter();
        let by_kind = by_kind.map(|(kind, right)| (*kind, part(right))).collect();
        Ok((part(&all), by_kind))
    }

    /// Draws the captions of `n` scenes of one or several copies of an object, and reads the
    /// drawings back. Also a contact sheet.
    fn drawing(&mut self, n: usize) -> Result<(Drawing, RgbImage)> {
        let Checkpoint {
            model, tokenizer, ..
        } = self.checkpoint;
        let seed = self.seed;
        let wanted: Vec<(Scene, _)> = (0..)
            .map(|index| Scene::sample(Split::HeldOut, seed, index))
            .filter_map(|scene| match &scene.layout {
                Layout::Single { object, .. } | Layout::Copies { object, .. } => {
                    let object = *object;
                    Some((scene, object))
                }
                Layout::Pair { .. } | Layout::Free { .. } => None,
            })
            .take(n)
            .collect();
        let mut pictures = Vec::new();
        for (batch, now) in wanted.chunks(BATCH).enumerate() {
            let mut prompts = Vec::new();
            for (scene, _) in now {
                prompts.push(image_prompt(tokenizer, &scene.caption())?);
            }
            let seed = seed.wrapping_add(batch as u64);
            let options = self.checkpoint.generation.visual(seed);
            let on_progress = &mut self.on_progress;
            let drawing = generate_images(model, tokenizer, &prompts, &options, &mut |progress| {
                let done = batch * BATCH + now.len() * progress.done / progress.total;
                match on_progress("drawing", done, n) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            pictures.extend(to_images(drawing.pixels.squeeze_dim::<4>(1))?);
        }
        let seen: Vec<_> = pictures.par_iter().map(fit::look).collect();
        let count = |right: &dyn Fn(&Scene, fit::Seen) -> bool| -> Estimate {
            let checked = wanted.iter().zip(&seen);
            let right: Vec<_> = checked
                .map(|((scene, _), seen)| right(scene, *seen))
                .collect();
            part(&right)
        };
        let named = wanted
            .iter()
            .zip(&seen)
            .map(|((_, object), seen)| *object == seen.object);
        let drawing = Drawing {
            object: part(&named.collect::<Vec<_>>()),
            background: count(&|scene, seen| seen.background == scene.background),
            count: count(&|scene, seen| seen.count == scene.count()),
        };
        pictures.truncate(SHOWN);
        Ok((drawing, sheet::grid(&pictures, ACROSS)))
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
        for (part, from, to) in [
            ("", "", ""),
            ("llm/", "\"vocab_size\": 604", "\"vocab_size\": 895"),
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
            tokenizer: Tokenizer::from_dir(&nano.join("llm")).unwrap(),
            files,
            config,
        }
    }

    #[test]
    fn reports_every_measure() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = untrained(folder.path());
        let report = run(&checkpoint, 2, 0, &mut |_, done, total| done <= total).unwrap();
        assert_eq!(report.reconstruction.psnr.n, 2);
        assert_eq!((report.codebook.len(), report.matching.n), (4, 100));
        assert!(report.answers.n >= 12 && report.answers_by_kind.len() >= 4);
        assert_eq!((report.drawing.object.n, report.drawing.count.n), (2, 2));
        assert_eq!((report.video_answers.n, report.video.motion.n), (14, 2));
        assert_eq!(report.comparisons[&Kind::Aspect].n, 2);
        assert_eq!(
            report.riddles.values().map(|share| share.n).sum::<usize>(),
            2
        );
        // An untrained model is right by chance only.
        assert!(report.matching.value < 0.1 && report.reconstruction.psnr.value < 20.0);
        report.save_sheets(folder.path()).unwrap();
        assert!(folder.path().join("drawings.png").is_file());
        assert!(folder.path().join("videos.png").is_file());
        let table = report.to_string();
        assert!(
            table.contains("video: motion") && table.contains("n = 100"),
            "{table}"
        );
        assert!(serde_json::to_value(&report).unwrap()["answers_by_kind"]["yes_no"]["n"].is_u64());

        let stopped = run(&checkpoint, 2, 0, &mut |_, _, _| false);
        assert!(matches!(stopped, Err(Error::Interrupted)));
        checkpoint.generation.visual_guidance = f64::NAN;
        let unguided = run(&checkpoint, 2, 0, &mut |_, _, _| true);
        assert!(matches!(unguided, Err(Error::Usage(_))));
    }
}
