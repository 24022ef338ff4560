//! Replies in which the model opens a picture or a video itself. Every text token and every code must
//! be the most likely one when everything before it is read anew, without a cache.
//!
//! The recorded model never opens one, so its text head is made to: the weights of the start token become the
//! hidden state of one step of its answer, as long as it takes to win there.

use std::ops::ControlFlow;

use burn::{
    module::Param,
    tensor::{Device, Int, Tensor},
};
use vila_u::{
    generation::{
        chat::{self, Answer, AnswerEvent, AnswerOptions, VisualInputs},
        sampling::Sampling,
        text::TextOptions,
        visual::{VisualOptions, VisualOutput},
    },
    model::{VilaU, VilaUConfig},
    sequence::{Sample, SequenceLayout},
    text::{
        IMAGE_ID, Tokenizer,
        conversation::{self, Reply, Turn},
    },
};

use crate::{
    fixture::{Recorded, folder},
    generate::{config, load_config},
};

const VOCABULARY: usize = 604;
const IMAGE_START: i64 = 600;
const IMAGE_END: i64 = 601;
const VIDEO_START: i64 = 602;
const VIDEO_END: i64 = 603;
const QUESTION: &str = "Why is the old castle so quiet at night?";
const FRAMES: usize = 2;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&folder().join("checkpoint/llm")).unwrap()
}

/// The hidden state of every position, nothing remembered: `[positions, hidden]`.
fn hidden(model: &VilaU, ids: &[i64], visual: Option<Tensor<2>>) -> Tensor<2> {
    let sample = Sample::prompt(ids);
    let layout = SequenceLayout::left_padded(&[sample], model.image_tokens());
    let embeds = layout.embeddings(&model.llm, visual);
    let positions = layout.positions(&model.llm.device());
    let hidden = model.llm.forward(embeds, positions, None, None);
    hidden.squeeze_dim(0)
}

fn logits(model: &VilaU, hidden: Tensor<2>) -> Vec<Vec<f32>> {
    let logits = model.llm.logits(hidden.unsqueeze::<3>());
    let values: Vec<f32> = logits.into_data().iter().collect();
    values.chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

fn best(logits: &[f32]) -> (usize, f32) {
    let best = logits.iter().copied().enumerate();
    best.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

/// Makes the model open `token` at step `step` of its greedy answer.
fn made_to_open(mut model: VilaU, prompt: &[i64], step: usize, token: i64) -> VilaU {
    let mut ids = prompt.to_vec();
    for _ in 0..step {
        let last = logits(&model, hidden(&model, &ids, None)).pop().unwrap();
        ids.push(best(&last).0 as i64);
    }
    let states = hidden(&model, &ids, None);
    let [count, width] = states.dims();
    let state = states.narrow(0, count - 1, 1);
    let (_, most) = best(&logits(&model, state.clone())[0]);
    let square = state.clone().powi_scalar(2).sum().into_scalar::<f32>();
    let head = model.llm.lm_head.take().unwrap();
    let column = (state * ((most.abs() * 1.01 + 0.01) / square)).reshape([width, 1]);
    let place = [0..width, token as usize..token as usize + 1];
    let weight = head.weight.val().slice_assign(place, column);
    model.llm.lm_head = Some(burn::nn::Linear {
        weight: Param::from_tensor(weight),
        ..head
    });
    model
}

fn options(max_tokens: usize, guidance: f64) -> (TextOptions, VisualOptions) {
    let text = TextOptions {
        sampling: Sampling::GREEDY,
        seed: 0,
        max_tokens,
        stop: vec![2],
    };
    let visual = VisualOptions {
        guidance,
        sampling: Sampling::GREEDY,
        seed: 0,
        first: 0,
    };
    (text, visual)
}

fn reply(
    model: &VilaU,
    shown: VisualInputs,
    question: &str,
    max_tokens: usize,
    guidance: f64,
) -> (Answer, Vec<VisualOutput>) {
    let (text, visual) = options(max_tokens, guidance);
    let mut outputs = Vec::new();
    let mut said = String::new();
    let answer = chat::answer(
        model,
        &tokenizer(),
        question,
        shown,
        &AnswerOptions {
            text,
            visual,
            frames: FRAMES,
            system: true,
        },
        &mut |event| {
            match event {
                AnswerEvent::Text(text) => said += text,
                AnswerEvent::VisualProgress(progress) => assert!(progress.done <= progress.total),
                AnswerEvent::Visual(output) => outputs.push(output.clone()),
            }
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    let words = answer.text.replace("<image>", "").replace("<video>", "");
    assert_eq!(words.trim(), said.trim());
    (answer, outputs)
}

fn prompt(question: &str) -> Vec<i64> {
    let turns = [Turn::human(question)];
    let prompt = conversation::generation_prompt(&turns, Reply::Text, true).unwrap();
    tokenizer().encode_prompt(&prompt)
}

/// What the language model reads of outputs, and the sums of their codes' vectors.
fn visual(model: &VilaU, codes: &[Tensor<2, Int>]) -> (Tensor<2>, Tensor<3>) {
    let quantizer = &model.vision_tower.rqvaesiglip.quantizer;
    let sums = quantizer.cumulative_embeddings(Tensor::cat(codes.to_vec(), 0));
    let [n, depth, width] = sums.dims();
    let features = sums.clone().narrow(1, depth - 1, 1).reshape([n, width]);
    (model.mm_projector.forward(features), sums)
}

/// Checks every choice of a reply against the most likely one, to what rounding may change.
fn assert_most_likely(
    model: &VilaU,
    shown: Option<Tensor<2>>,
    prompt: &[i64],
    answer: &Answer,
    outputs: &[VisualOutput],
    guidance: f64,
) {
    let codes: Vec<Tensor<2, Int>> = outputs
        .iter()
        .map(|output| output.codes.clone().flatten::<2>(0, 3))
        .collect();
    let ids = [prompt, &answer.tokens].concat();
    let own = (!codes.is_empty()).then(|| visual(model, &codes).0);
    let parts: Vec<Tensor<2>> = [shown, own].into_iter().flatten().collect();
    let read = (!parts.is_empty()).then(|| Tensor::cat(parts, 0));
    let states = hidden(model, &ids, read);
    let text = logits(model, states.clone());
    let tokens = model.image_tokens();
    let mut at: usize = prompt
        .iter()
        .map(|&id| if id == IMAGE_ID { tokens } else { 1 })
        .sum();
    let mut output = 0;
    let mut rest = answer.tokens.as_slice();
    while let Some((&token, after)) = rest.split_first() {
        rest = after;
        if token != IMAGE_ID {
            // End tokens are put, not chosen.
            if ![IMAGE_END, VIDEO_END].contains(&token) {
                let logits = &text[at - 1];
                let (_, most) = best(logits);
                assert!(
                    logits[token as usize] >= most - 1e-4,
                    "token {token} at {at}"
                );
            }
            at += 1;
            continue;
        }
        let frames = 1 + rest.iter().take_while(|&&id| id == IMAGE_ID).count();
        rest = &rest[frames - 1..];
        let total = frames * tokens;
        let codes = codes[output].clone();
        let (embeds, sums) = visual(model, std::slice::from_ref(&codes));
        let predict = |states: Tensor<2>, last: usize| {
            let before = states.narrow(0, last, total);
            let depth = &model.vision_tower.rqtransformer;
            depth.teacher_forced(before, sums.clone())
        };
        let with = predict(states.clone(), at - 1);
        let kind = match frames {
            1 => Reply::Image,
            _ => Reply::Video,
        };
        let unasked = conversation::unconditional_prompt(kind, true).unwrap();
        let mut unasked = tokenizer().encode_prompt(&unasked);
        let last = unasked.len() - 1;
        unasked.extend(vec![IMAGE_ID; frames]);
        let without = predict(hidden(model, &unasked, Some(embeds)), last);
        let steered = without.clone() + (with - without) * guidance;
        let [_, depth, width] = steered.dims();
        let values: Vec<f32> = steered.into_data().iter().collect();
        let codes: Vec<i64> = codes.into_data().iter().collect();
        assert_eq!(codes.len(), total * depth);
        for (place, (logits, code)) in values.chunks(width).zip(codes).enumerate() {
            let (_, most) = best(logits);
            assert!(
                logits[code as usize] >= most - 1e-3,
                "code {place} of output {output}"
            );
        }
        at += total;
        output += 1;
    }
    assert_eq!(output, outputs.len());
}

fn load() -> VilaU {
    load_config(&config(), &Device::flex())
}

#[test]
fn images_and_videos_are_opened_generated_and_followed_by_text() {
    let prompt = prompt(QUESTION);
    for (start, end, frames, guidance) in [
        (IMAGE_START, IMAGE_END, 1, 3.0),
        (IMAGE_START, IMAGE_END, 1, 1.0),
        (VIDEO_START, VIDEO_END, FRAMES, 3.0),
    ] {
        let model = made_to_open(load(), &prompt, 3, start);
        let (answer, outputs) = reply(&model, VisualInputs::default(), QUESTION, 8, guidance);
        let at = answer.tokens.iter().position(|&id| id == start).unwrap();
        assert_eq!(at, 3);
        assert_eq!(answer.tokens[at + 1..=at + frames], vec![IMAGE_ID; frames]);
        assert_eq!(answer.tokens[at + frames + 1], end);
        // Text goes on; start and end do not count among what is written.
        let written = answer.tokens.iter();
        let written = written.filter(|id| ![IMAGE_ID, IMAGE_END, VIDEO_END].contains(id));
        assert_eq!(written.count(), 8);
        let name = if frames == 1 { "<image>" } else { "<video>" };
        assert!(answer.text.contains(name), "{}", answer.text);
        assert_eq!(outputs[0].codes.dims(), [1, frames, 8, 8, 4]);
        assert_eq!(outputs[0].pixels.dims(), [1, frames, 3, 64, 64]);
        assert_most_likely(&model, None, &prompt, &answer, &outputs, guidance);
    }
}

/// A question shorter than the prompt that asks for nothing, and one about an image.
#[test]
fn the_row_without_a_question_may_be_the_longer_one() {
    let (text, visual) = options(4, 3.0);
    let model = load();
    let short = [1, 5];
    let opened = made_to_open(load(), &short, 0, IMAGE_START);
    let unconditional = conversation::unconditional_prompt(Reply::Image, true).unwrap();
    let modality = vila_u::generation::interleaved::Modality {
        start: IMAGE_START,
        end: IMAGE_END,
        frames: 1,
        unconditional: tokenizer().encode_prompt(&unconditional),
    };
    let (mut tokens, mut outputs) = (Vec::new(), Vec::new());
    let prompt = vila_u::generation::batch::Prompt::from_ids(&opened.llm, &[short.to_vec()]);
    vila_u::generation::interleaved::generate(
        &opened,
        prompt.unwrap(),
        &[modality],
        &text,
        &visual,
        &mut |event| {
            use vila_u::generation::interleaved::Event;
            match event {
                Event::Token(token) => tokens.push(token),
                Event::VisualProgress(_) => {}
                Event::Visual(output) => {
                    outputs.push(output.clone());
                    tokens.push(IMAGE_ID);
                }
            }
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(tokens[..3], [IMAGE_START, IMAGE_ID, IMAGE_END]);
    let answer = Answer {
        text: String::new(),
        tokens,
        prompt_tokens: 2,
    };
    assert_most_likely(&opened, None, &short, &answer, &outputs, 3.0);

    let image = Recorded::open("preprocess.safetensors").tensor::<3>("img0.understanding");
    let shown = || VisualInputs {
        images: vec![image.clone().unsqueeze()],
        videos: Vec::new(),
    };
    let (answer, outputs) = reply(&model, shown(), "What is in the image?", 4, 3.0);
    let codes = model.vision_tower.rqvaesiglip.encode(image.unsqueeze());
    let codes = codes.codes.flatten::<2>(0, 2);
    let (read, _) = self::visual(&model, &[codes]);
    let prompt = self::prompt("<image>\nWhat is in the image?");
    assert_eq!(answer.prompt_tokens, prompt.len() + 63);
    assert_most_likely(&model, Some(read), &prompt, &answer, &outputs, 3.0);
}

/// Where the context has no room for a picture, the model goes on in words.
#[test]
fn no_picture_is_opened_without_room() {
    let prompt = prompt(QUESTION);
    let answer = |room: usize| {
        let mut config: VilaUConfig = config();
        config.llm.max_position_embeddings = prompt.len() + room;
        config.llm.tokenizer_model_max_length = Some(prompt.len() + room);
        let model = load_config(&config, &Device::flex());
        let model = made_to_open(model, &prompt, 3, IMAGE_START);
        reply(&model, VisualInputs::default(), QUESTION, 100, 3.0)
    };
    // Three tokens, the start, 64 visual tokens and the end.
    let (with, outputs) = answer(3 + 66);
    assert_eq!((outputs.len(), with.tokens.len()), (1, 6));
    let (without, outputs) = answer(3 + 65);
    assert!(outputs.is_empty() && !without.tokens.contains(&IMAGE_START));
}

#[test]
fn a_break_ends_the_reply_or_the_output() {
    let prompt = prompt(QUESTION);
    let model = made_to_open(load(), &prompt, 1, IMAGE_START);
    let (text, visual) = options(8, 3.0);
    let options = AnswerOptions {
        text,
        visual,
        frames: FRAMES,
        system: true,
    };
    let run = |stop: fn(&AnswerEvent) -> bool| {
        chat::answer(
            &model,
            &tokenizer(),
            QUESTION,
            VisualInputs::default(),
            &options,
            &mut |event| {
                if stop(&event) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )
    };
    let words = run(|event| matches!(event, AnswerEvent::Text(_))).unwrap();
    assert_eq!(words.tokens.len(), 1);
    let output = run(|event| matches!(event, AnswerEvent::VisualProgress(_)));
    assert!(matches!(output, Err(vila_u::Error::Interrupted)));
    let whole = run(|event| matches!(event, AnswerEvent::Visual(_))).unwrap();
    assert_eq!(whole.tokens[1..], [IMAGE_START, IMAGE_ID]);
}

/// Examples in one question: pictures with words between them, each where it is named.
#[test]
fn examples_are_laid_out_in_reading_order() {
    let model = load();
    let images = Recorded::open("preprocess.safetensors");
    let image = |name: &str| images.tensor::<3>(name).unsqueeze::<4>();
    let [a, b, c] = ["img0", "img1", "img2"].map(|name| image(&format!("{name}.understanding")));
    let question = "<image>A cat. <video>A bird runs. <image>";
    let video = Tensor::cat(vec![b.clone(), c.clone()], 0);
    let shown = VisualInputs {
        images: vec![a.clone(), c.clone()],
        videos: vec![video],
    };
    let (answer, outputs) = reply(&model, shown, question, 5, 3.0);
    let ids = prompt("<image>\nA cat. <image>\n<image>\nA bird runs. <image>\n");
    let tower = &model.vision_tower.rqvaesiglip;
    let codes = tower.encode(Tensor::cat(vec![a, b, c.clone(), c], 0)).codes;
    let (read, _) = visual(&model, &[codes.flatten::<2>(0, 2)]);
    assert_eq!(answer.prompt_tokens, ids.len() + 4 * 63);
    assert_most_likely(&model, Some(read), &ids, &answer, &outputs, 3.0);
}
