//! The forms in which the language model sees the nano world, and how often it sees each.
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

use super::mixture::{Example, Samples};
use super::recipe::Mixture;
use crate::Result;
use crate::data::formats::{DESCRIBE, DESCRIBE_VIDEO};
use crate::data::nano::{Comparison, Page, Question, Scene, Split, Video, riddle};
use crate::data::seed::mix;
use crate::media::preprocess::normalize;
use crate::sequence::templates::{self, VIDEO_FRAMES};
use crate::text::conversation::Turn;

/// Turns of one conversation about a picture or a video.
const MOST_QUESTIONS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
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

impl Form {
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
    pub fn draws(self) -> bool {
        matches!(self, Self::Generation | Self::Video | Self::Reply)
    }
}

impl Mixture {
    /// Every form with its weight.
    pub fn forms(&self) -> [(Form, f64); 9] {
        [
            (Form::Caption, self.caption),
            (Form::Generation, self.generation),
            (Form::Question, self.question),
            (Form::Video, self.video),
            (Form::VideoQuestion, self.video_question),
            (Form::Page, self.page),
            (Form::Comparison, self.comparison),
            (Form::Reply, self.reply),
            (Form::Text, self.text),
        ]
    }

    /// The form of sample `index`: in the given proportions over any stretch, mixed well.
    pub fn form(&self, index: u64) -> Form {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(u64::MAX, index));
        let forms = self.forms();
        let total: f64 = forms.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.random::<f64>() * total;
        for (form, weight) in forms {
            if left < weight {
                return form;
            }
            left -= weight;
        }
        Form::Generation
    }
}

impl Samples {
    /// Sample `index` of a split of the nano world in the given form.
    pub fn make(&self, split: Split, seed: u64, index: u64, form: Form) -> Result<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, index));
        let tokenizer = &self.tokenizer;
        let size = self.size() as u32;
        let scene = || Scene::sample(split, seed, index);
        // Questions about a picture that stands alone, as people ask them, and about one between its
        // start and end tokens.
        let about = |turns: &[Turn], pictures: &[RgbImage], alone: bool| match alone {
            true => templates::chat_without_markers(tokenizer, turns, pictures.len(), true),
            false => templates::chat(tokenizer, turns, pictures.len(), true),
        };
        let (sample, pictures) = match form {
            Form::Caption | Form::Question => {
                let scene = scene();
                let turns = match form {
                    Form::Caption => vec![Turn::human(DESCRIBE), Turn::assistant(scene.caption())],
                    _ => some(scene.questions(), &mut rng),
                };
                let pictures = vec![scene.render(size)];
                (about(&turns, &pictures, !rng.random::<bool>())?, pictures)
            }
            Form::Generation => {
                let scene = scene();
                let turns = [Turn::human(scene.caption()), Turn::assistant("<image>")];
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::chat(tokenizer, &turns, 1, true)?;
                (sample, vec![scene.render(size)])
            }
            Form::Video => {
                let video = Video::sample(split, seed, index);
                let turns = [Turn::human(video.caption()), Turn::assistant("<video>")];
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::video_chat(tokenizer, &turns, VIDEO_FRAMES, true)?;
                (sample, video.render(VIDEO_FRAMES, size))
            }
            Form::VideoQuestion => {
                let video = Video::sample(split, seed, index);
                let frames = self.config.root.num_video_frames;
                let turns = match rng.random_bool(0.25) {
                    true => vec![
                        Turn::human(DESCRIBE_VIDEO),
                        Turn::assistant(video.caption()),
                    ],
                    false => some(video.questions(), &mut rng),
                };
                let sample = templates::video_chat(tokenizer, &turns, frames, true)?;
                (sample, video.render(frames, size))
            }
            Form::Page => {
                let page = Page::sample(split, seed, index);
                let pictures: Vec<_> = page.scenes.iter().map(|s| s.render(size)).collect();
                let sample = templates::document(tokenizer, &page.text(), pictures.len())?;
                (sample, pictures)
            }
            Form::Comparison => {
                let found = Comparison::sample(split, seed, index);
                let asked = found.questions();
                let asked = asked.choose(&mut rng).cloned().into_iter().collect();
                let pictures = found.scenes.each_ref().map(|scene| scene.render(size));
                let sample = about(&turns(asked), &pictures, rng.random())?;
                (sample, pictures.to_vec())
            }
            Form::Reply => {
                let (scene, turns) = Scene::sample_reply(split, seed, index);
                let turns = self.sometimes_without_caption(&turns, &mut rng);
                let sample = templates::chat(tokenizer, &turns, 1, true)?;
                (sample, vec![scene.render(size)])
            }
            Form::Text => {
                let turns = turns(vec![riddle(split, seed, index)]);
                (templates::chat(tokenizer, &turns, 0, true)?, Vec::new())
            }
        };
        let pixels = pictures.iter().flat_map(normalize).collect();
        Ok(self.hide(sample, pixels, &mut rng))
    }

    fn sometimes_without_caption(&self, turns: &[Turn], rng: &mut ChaCha8Rng) -> Vec<Turn> {
        match self.drops_caption(rng) {
            true => templates::without_caption(turns),
            false => turns.to_vec(),
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
