//! Questions about pictures, videos or nothing, answered greedily.

use std::{collections::BTreeMap, ops::ControlFlow};

use burn::tensor::Tensor;
use image::RgbImage;

use super::{Answers, Bench, right_of};
use crate::{
    Result,
    data::nano::{Comparison, Kind, Question, Scene, Video, riddle},
    generation::{
        batch::Prompt,
        sampling::Sampling,
        text::{self, TextOptions},
    },
    sequence::{Sample, SequenceLayout},
    text::conversation::{self, Reply, Turn},
};

/// Questions that are answered side by side, about: those of one scene always are.
const ROWS: usize = 32;

/// Questions, and the pictures that all of them are about.
type Asked = (Vec<Question>, Vec<RgbImage>);

impl Bench<'_> {
    /// Asks every question about every scene.
    pub(super) fn questions(&mut self, scenes: impl Iterator<Item = Scene>) -> Result<Answers> {
        let asked: Vec<Asked> = scenes
            .map(|scene| (scene.questions(), self.render(&[scene])))
            .collect();
        self.ask("questions", &asked)
    }

    /// Asks every question about every video.
    pub(super) fn video_questions(
        &mut self,
        videos: impl Iterator<Item = Video>,
    ) -> Result<Answers> {
        let frames = self.checkpoint.config.root.num_video_frames;
        let asked: Vec<Asked> = videos
            .map(|video| (video.questions(), video.render(frames, self.size as u32)))
            .collect();
        self.ask("video questions", &asked)
    }

    /// The same of pairs of pictures that differ in one thing.
    pub(super) fn comparisons(&mut self, n: usize) -> Result<Answers> {
        let asked = (0..n as u64).map(|index| {
            let compared = Comparison::sample(self.split, self.seed, index);
            (compared.questions(), self.render(&compared.scenes))
        });
        let asked: Vec<Asked> = asked.collect();
        self.ask("comparisons", &asked)
    }

    /// The same of questions without pictures.
    pub(super) fn riddles(&mut self, n: usize) -> Result<Answers> {
        let asked = |index| vec![riddle(self.split, self.seed, index)];
        let asked: Vec<Asked> = (0..n as u64)
            .map(|index| (asked(index), Vec::new()))
            .collect();
        self.ask("riddles", &asked)
    }

    /// Asks the questions about the pictures beside them, as many pictures for each.
    fn ask(&mut self, what: &str, asked: &[Asked]) -> Result<Answers> {
        let most = asked.iter().map(|(questions, _)| questions.len()).max();
        let at_once = (ROWS / most.unwrap_or(1).max(1)).max(1);
        let mut right = BTreeMap::<Kind, Vec<bool>>::new();
        for (group, asked_now) in asked.chunks(at_once).enumerate() {
            let answers = self.answer(asked_now)?;
            let questions = asked_now.iter().flat_map(|(questions, _)| questions);
            for (question, answer) in questions.zip(answers) {
                let kind = right.entry(question.kind).or_default();
                kind.push(answer.trim() == question.answer);
            }
            let done = group * at_once + asked_now.len();
            self.progress(what, done, asked.len())?;
        }
        let all: Vec<bool> = right.values().flatten().copied().collect();
        let by_kind = right.iter();
        Ok(Answers {
            all: right_of(&all),
            by_kind: by_kind
                .map(|(kind, right)| (*kind, right_of(right)))
                .collect(),
        })
    }

    /// The answers to all of these questions, in their order.
    fn answer(&self, asked: &[Asked]) -> Result<Vec<String>> {
        let (model, tokenizer) = (&self.checkpoint.model, &self.checkpoint.tokenizer);
        let options = TextOptions {
            sampling: Sampling::GREEDY,
            seed: self.seed,
            max_tokens: 32,
            stop: vec![tokenizer.eos_token_id()],
        };
        let (mut samples, mut visual) = (Vec::new(), Vec::new());
        for (questions, pictures) in asked {
            for question in questions {
                let text = conversation::question(&question.question, pictures.len())?;
                let turns = [Turn::human(text)];
                let prompt = conversation::generation_prompt(&turns, Reply::Text, true)?;
                samples.push(Sample::prompt(&tokenizer.encode_prompt(&prompt)));
            }
            if !pictures.is_empty() {
                let embeds = model.visual_embeds(self.pixels(pictures));
                visual.push(embeds.repeat_dim(0, questions.len()));
            }
        }
        let visual = (!visual.is_empty()).then(|| Tensor::cat(visual, 0));
        let rows = SequenceLayout::left_padded(&samples, model.image_tokens());
        let embeds = rows.embeddings(&model.llm, visual);
        let lengths = samples
            .iter()
            .map(|sample| sample.length(model.image_tokens()));
        let prompt = Prompt::new(embeds, lengths.collect())?;
        let written = text::generate(&model.llm, prompt, &options, &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        Ok(written
            .iter()
            .map(|tokens| tokenizer.decode(tokens))
            .collect())
    }
}
