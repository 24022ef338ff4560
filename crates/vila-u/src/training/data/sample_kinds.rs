//! The kinds of sample in which the language model sees the nano world, and how often it sees each.
//!
//! ```text
//! caption          [picture, caption]         loss on the caption
//! generation       [caption, picture]         loss on the picture
//! question         [picture, answers]         loss on the answers
//! video            [caption, video]           loss on the video
//! video_question   [video, answers]           loss on the answers
//! page             [picture, caption, ...]    loss on the captions
//! comparison       [two pictures, answer]     loss on the answer
//! reply            [request, words, picture, words]   loss on all but the request
//! text             [question, answer]         loss on the answer
//! ```

use image::RgbImage;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::samples::{Example, SampleMaker};
use crate::Result;
use crate::data::formats::{DESCRIBE, DESCRIBE_VIDEO};
use crate::data::nano::{Comparison, Page, Question, Scene, Split, Video, riddle};
use crate::data::seed::mix;
use crate::media::preprocess::normalize;
use crate::sequence::templates::{self, VIDEO_FRAMES};
use crate::text::conversation::Turn;
use crate::training::recipe::Multimodal;

/// Turns of one conversation about a picture or a video.
const MOST_QUESTIONS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    Caption,
    Generation,
    Question,
    Video,
    VideoQuestion,
    Page,
    Comparison,
    Reply,
    Text,
}

impl SampleKind {
    /// Its loss on held-out samples in `metrics.jsonl`.
    pub fn metric(self) -> &'static str {
        match self {
            Self::Caption => "caption_loss",
            Self::Generation => "generation_loss",
            Self::Question => "answer_loss",
            Self::Video => "video_loss",
            Self::VideoQuestion => "video_answer_loss",
            Self::Page => "page_loss",
            Self::Comparison => "comparison_loss",
            Self::Reply => "reply_loss",
            Self::Text => "text_only_loss",
        }
    }

    /// Whether its metric is about visual tokens, not about words.
    pub fn generates(self) -> bool {
        matches!(self, Self::Generation | Self::Video | Self::Reply)
    }
}

impl Multimodal {
    /// Every kind with its weight.
    pub fn kinds(&self) -> [(SampleKind, f64); 9] {
        [
            (SampleKind::Caption, self.caption),
            (SampleKind::Generation, self.generation),
            (SampleKind::Question, self.question),
            (SampleKind::Video, self.video),
            (SampleKind::VideoQuestion, self.video_question),
            (SampleKind::Page, self.page),
            (SampleKind::Comparison, self.comparison),
            (SampleKind::Reply, self.reply),
            (SampleKind::Text, self.text),
        ]
    }

    /// The kind of sample `index`: in the given proportions over any stretch, mixed well.
    pub fn kind(&self, index: u64) -> SampleKind {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(u64::MAX, index));
        let kinds = self.kinds();
        let total: f64 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.random::<f64>() * total;
        for (kind, weight) in kinds {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        SampleKind::Generation
    }
}

impl SampleMaker {
    /// Sample `index` of a split of the nano world, of the given kind.
    pub(crate) fn make(
        &self,
        split: Split,
        seed: u64,
        index: u64,
        kind: SampleKind,
    ) -> Result<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, index));
        let tokenizer = &self.tokenizer;
        let size = self.size() as u32;
        let scene = || Scene::sample(split, seed, index);
        // Questions about a picture that stands alone, as people ask them, and about one between its
        // start and end tokens.
        let about = |turns: &[Turn], pictures: &[RgbImage], alone: bool| {
            if alone {
                templates::chat_without_markers(tokenizer, turns, pictures.len(), true)
            } else {
                templates::chat(tokenizer, turns, pictures.len(), true)
            }
        };
        let (sample, pictures) = match kind {
            SampleKind::Caption | SampleKind::Question => {
                let scene = scene();
                let turns = match kind {
                    SampleKind::Caption => {
                        vec![Turn::human(DESCRIBE), Turn::assistant(scene.caption())]
                    }
                    _ => some(scene.questions(), &mut rng),
                };
                let pictures = vec![scene.render(size)];
                (about(&turns, &pictures, !rng.random::<bool>())?, pictures)
            }
            SampleKind::Generation => {
                let scene = scene();
                let turns = [Turn::human(scene.caption()), Turn::assistant("<image>")];
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::chat(tokenizer, &turns, 1, true)?;
                (sample, vec![scene.render(size)])
            }
            SampleKind::Video => {
                let video = Video::sample(split, seed, index);
                let turns = [Turn::human(video.caption()), Turn::assistant("<video>")];
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::video_chat(tokenizer, &turns, VIDEO_FRAMES, true)?;
                (sample, video.render(VIDEO_FRAMES, size))
            }
            SampleKind::VideoQuestion => {
                let video = Video::sample(split, seed, index);
                let frames = self.config.root.num_video_frames;
                let turns = if rng.random_bool(0.25) {
                    vec![
                        Turn::human(DESCRIBE_VIDEO),
                        Turn::assistant(video.caption()),
                    ]
                } else {
                    some(video.questions(), &mut rng)
                };
                let sample = templates::video_chat(tokenizer, &turns, frames, true)?;
                (sample, video.render(frames, size))
            }
            SampleKind::Page => {
                let page = Page::sample(split, seed, index);
                let pictures: Vec<_> = page.scenes.iter().map(|s| s.render(size)).collect();
                let sample = templates::document(tokenizer, &page.text(), pictures.len())?;
                (sample, pictures)
            }
            SampleKind::Comparison => {
                let comparison = Comparison::sample(split, seed, index);
                let asked = comparison.questions();
                let asked = asked.choose(&mut rng).cloned().into_iter().collect();
                let pictures = comparison.scenes.each_ref().map(|scene| scene.render(size));
                let sample = about(&turns(asked), &pictures, rng.random())?;
                (sample, pictures.to_vec())
            }
            SampleKind::Reply => {
                let (scene, turns) = Scene::sample_reply(split, seed, index);
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::chat(tokenizer, &turns, 1, true)?;
                (sample, vec![scene.render(size)])
            }
            SampleKind::Text => {
                let turns = turns(vec![riddle(split, seed, index)]);
                (templates::chat(tokenizer, &turns, 0, true)?, Vec::new())
            }
        };
        let pixels = pictures.iter().flat_map(normalize).collect();
        Ok(self.drop_visual_tokens(sample, pixels, &mut rng))
    }

    fn sometimes_without_caption(&self, turns: &[Turn], rng: &mut ChaCha8Rng) -> Vec<Turn> {
        if self.drops_caption(rng) {
            templates::without_caption(turns)
        } else {
            turns.to_vec()
        }
    }
}

/// A conversation of a few of the questions.
fn some(mut questions: Vec<Question>, rng: &mut ChaCha8Rng) -> Vec<Turn> {
    questions.shuffle(rng);
    questions.truncate(MOST_QUESTIONS);
    turns(questions)
}

fn turns(asked: Vec<Question>) -> Vec<Turn> {
    let turns = |asked: Question| [Turn::human(asked.question), Turn::assistant(asked.answer)];
    asked.into_iter().flat_map(turns).collect()
}
