//! The three recorded training batches: ids, labels, packing, losses and gradients.
//!
//! Two quirks of the authors' code are not copied. Labels of visual tokens and positions are the
//! same; their packed batch b1 lets the last token of one sample predict the first of the next,
//! which our layout does not, so there the recorded evaluation loss is the one to meet.

mod layout;
mod losses;

use std::fs;

use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use vila_u::{
    model::VilaU,
    sequence::{Content, Sample, SequenceLayout, templates},
    text::{Tokenizer, conversation::Turn},
};

use crate::{
    fixture::{Recorded, folder},
    generate::load,
};

const VISUAL_TOKENS: usize = 64;
const VOCABULARY: i64 = 604;
const MAX_LENGTH: usize = 2048;

#[derive(Deserialize)]
struct Prompts {
    training: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Turn>,
    has_image: bool,
    no_system_prompt: bool,
    input_ids: Vec<i64>,
    labels: Vec<i64>,
}

fn cases() -> Vec<Case> {
    let json = fs::read(folder().join("prompts.json")).unwrap();
    serde_json::from_slice::<Prompts>(&json).unwrap().training
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&folder().join("checkpoint/llm")).unwrap()
}

/// The labels that the authors' code gives the token ids.
fn labels(sample: &Sample) -> Vec<i64> {
    let mut labels = Vec::new();
    for span in &sample.spans {
        let predicted = span.role.predicts_text();
        labels.extend(match &span.content {
            Content::Text(ids) if predicted => ids.clone(),
            Content::Text(ids) => vec![-100; ids.len()],
            Content::Visual(images) if predicted => vec![-200; *images],
            Content::Visual(images) => vec![-100; *images],
        });
    }
    labels
}

struct Batch {
    name: &'static str,
    samples: Vec<Sample>,
    pixels: Tensor<4>,
}

fn chat(human: &str, assistant: &str, images: usize) -> Sample {
    let turns = [Turn::human(human), Turn::assistant(assistant)];
    templates::chat(&tokenizer(), &turns, images, true).unwrap()
}

fn batches() -> [Batch; 3] {
    let tokenizer = tokenizer();
    let case = |name: &str| {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        templates::chat(
            &tokenizer,
            &case.messages,
            usize::from(case.has_image),
            true,
        )
        .unwrap()
    };
    let page = "<image>The market opens in the early morning. <image> A farmer sells oranges.";
    let bird = [
        Turn::human("A bird runs toward the moon."),
        Turn::assistant("<video>"),
    ];
    let bird = templates::video_chat(&tokenizer, &bird, 8, true).unwrap();
    let frames = Recorded::open("llm.safetensors").tensor::<4>("c.pixel_values");
    let images = Recorded::open("preprocess.safetensors");
    let image = |name: &str| images.tensor::<3>(name).unsqueeze::<4>();
    [
        Batch {
            name: "b1",
            samples: vec![
                case("understanding_image"),
                case("image_generation"),
                templates::document(&tokenizer, page, 2).unwrap(),
                case("text_only"),
            ],
            pixels: Tensor::cat(
                vec![
                    image("img0.understanding"),
                    image("img3.generation"),
                    image("img1.understanding"),
                    image("img2.understanding"),
                ],
                0,
            ),
        },
        Batch {
            name: "b2",
            samples: vec![bird.clone()],
            pixels: frames.clone(),
        },
        Batch {
            name: "b3",
            samples: vec![bird, chat("An image.", "<image>", 1), case("text_only")],
            pixels: Tensor::cat(vec![frames, image("img1.generation")], 0),
        },
    ]
}

impl Batch {
    fn layout(&self) -> SequenceLayout {
        SequenceLayout::packed(&self.samples, VISUAL_TOKENS, MAX_LENGTH, None)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }
}

/// The whole model without dropout, as the batches were recorded.
fn model(device: &Device) -> VilaU {
    let mut model = load(device);
    let depth = model.vision_tower.rqtransformer;
    model.vision_tower.rqtransformer = depth.with_dropout(0.0);
    model
}
