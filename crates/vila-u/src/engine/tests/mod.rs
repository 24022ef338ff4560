#![allow(clippy::unwrap_used)]

mod replies;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use image::RgbImage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{AskOptions, GenerateOptions, Question, pipeline::Generated};

fn nano() -> Pipeline {
    Pipeline::builder("nano").device("cpu").build().unwrap()
}

fn options() -> EngineOptions {
    EngineOptions {
        max_running: 64,
        cache_bytes: Some(1 << 30),
        prefill_chunk: 128,
    }
}

/// What a request was told.
#[derive(Default)]
struct Told {
    text: String,
    logprobs: Vec<Logprobs>,
    progress: usize,
    previews: usize,
    generated: Vec<Generated>,
    finished: Option<(FinishReason, Usage)>,
    failed: Option<String>,
}

/// Submits a request whose listener leaves at event number `leave`.
fn submit(engine: &mut Engine, request: Request, leave: usize) -> Arc<Mutex<Told>> {
    let told = Arc::new(Mutex::new(Told::default()));
    let mut count = 0;
    let kept = told.clone();
    engine.submit(
        request,
        Box::new(move |event| {
            let mut told = kept.lock().unwrap();
            match event {
                Event::Text { text, logprobs } => {
                    told.text += &text;
                    told.logprobs.extend(logprobs);
                }
                Event::Progress { .. } => told.progress += 1,
                Event::Preview(_) => told.previews += 1,
                Event::Generated(one) => told.generated.push(one),
                Event::Finished { reason, usage } => told.finished = Some((reason, usage)),
                Event::Failed(error) => told.failed = Some(error.to_string()),
                Event::Started | Event::Waiting => return ControlFlow::Continue(()),
            }
            count += 1;
            if count == leave {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }),
    );
    told
}

fn run(engine: &mut Engine) {
    while engine.step() {}
}

fn chat(text: &str, images: &[RgbImage], seed: u64) -> Chat {
    let images = images
        .iter()
        .map(|image| Content::Image(image.clone().into()));
    let content = images.chain([Content::Text(text.into())]).collect();
    let mut chat = Chat::new(vec![Message {
        role: Role::User,
        content,
    }]);
    chat.options = asking(seed);
    chat
}

fn asking(seed: u64) -> AskOptions {
    AskOptions {
        max_tokens: 24,
        temperature: Some(1.0),
        top_p: Some(1.0),
        seed: Some(seed),
        ..AskOptions::default()
    }
}

fn image(prompt: &str, seed: u64, index: usize, guidance: f64) -> Generation {
    Generation {
        prompt: prompt.into(),
        kind: VisualKind::Image,
        options: GenerateOptions {
            seed: Some(seed),
            guidance: Some(guidance),
            ..GenerateOptions::default()
        },
        index,
        previews: 0,
    }
}

fn picture(red: u8) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        image::Rgb([red, (x * 3) as u8, (y * 3) as u8])
    })
}

#[test]
fn what_a_request_gets_does_not_depend_on_its_neighbours() {
    let nano = nano();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let prompts = ["a red heart", "a dog on a blue background", "three cats"];
    let questions = ["What is in this picture?", "What colour is it?", "Why?"];
    // Each alone, by the calls that know no neighbours.
    let mut expected_images = Vec::new();
    for seed in 0..4 {
        let guidance = [3.0, 1.0][seed % 2];
        let mut one = image(prompts[seed % 3], seed as u64, 0, guidance);
        one.options.temperature = Some(0.5 + 0.25 * seed as f64);
        let images = nano.generate_images(&one.prompt, 1, &one.options).unwrap();
        expected_images.push((one, images[0].clone()));
    }
    let mut expected_texts = Vec::new();
    for seed in 0..6 {
        let (question, shown) = (questions[seed % 3], picture(40 * seed as u8));
        let images = if seed == 5 { vec![] } else { vec![shown] };
        let mut asked = Question::new(question);
        for image in &images {
            asked = asked.image(image.clone());
        }
        let answer = nano.ask(asked, &asking(seed as u64)).unwrap();
        expected_texts.push((chat(question, &images, seed as u64), answer));
    }
    for chunk in [128, 7] {
        let bounds = EngineOptions {
            prefill_chunk: chunk,
            ..options()
        };
        let mut engine = Engine::new(&nano, bounds).unwrap();
        let mut told = Vec::new();
        let mut left: Vec<usize> = (0..10).collect();
        while !left.is_empty() {
            let next = left.swap_remove(random.random_range(0..left.len()));
            let request = match next {
                0..4 => Request::Generate(expected_images[next].0.clone()),
                _ => Request::Chat(expected_texts[next - 4].0.clone()),
            };
            told.push((next, submit(&mut engine, request, usize::MAX)));
            // Somebody who leaves in the middle.
            let request = Request::Generate(image("a tree", random.random(), 0, 3.0));
            submit(&mut engine, request, random.random_range(1..30));
            for _ in 0..random.random_range(0..25) {
                engine.step();
            }
        }
        run(&mut engine);
        for (index, told) in told {
            let told = told.lock().unwrap();
            assert_eq!(told.failed, None);
            match index {
                0..4 => assert_eq!(told.generated[0].frames[0], expected_images[index].1),
                _ => {
                    let answer = &expected_texts[index - 4].1;
                    assert_eq!(told.text.trim(), answer.text);
                    let (_, usage) = told.finished.unwrap();
                    assert_eq!(usage.prompt_tokens, answer.prompt_tokens);
                    assert_eq!(usage.completion_tokens, answer.tokens.len());
                }
            }
        }
        assert_eq!(engine.statistics().running, 0);
        assert_eq!(engine.statistics().waiting, 0);
    }
}

#[test]
fn images_of_one_request_are_those_of_one_batch() {
    let nano = nano();
    let options_of = image("a red heart", 7, 0, 3.0).options;
    let expected = nano.generate_images("a red heart", 3, &options_of).unwrap();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let told: Vec<_> = (0..3)
        .map(|index| Request::Generate(image("a red heart", 7, index, 3.0)))
        .map(|request| submit(&mut engine, request, usize::MAX))
        .collect();
    run(&mut engine);
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told.lock().unwrap().generated[0].frames[0], expected);
        assert_eq!(told.lock().unwrap().progress, 64);
    }
    // The prompt was read once, by whoever came first, but for its last position.
    let cached = |told: &Arc<Mutex<Told>>| {
        let (_, usage) = told.lock().unwrap().finished.unwrap();
        usage.prompt_tokens - usage.cached_tokens
    };
    assert!(cached(&told[0]) > 1);
    assert_eq!(cached(&told[1]), 1);
    assert_eq!(cached(&told[2]), 1);
}

#[test]
fn a_conversation_is_read_on_from_where_it_was() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let mut first = chat("What is in this picture?", &[picture(9)], 3);
    first.options.greedy = true;
    let told = submit(&mut engine, Request::Chat(first.clone()), usize::MAX);
    run(&mut engine);
    let reply = told.lock().unwrap().text.trim().to_string();
    let (_, usage) = told.lock().unwrap().finished.unwrap();
    assert!(usage.prompt_tokens > 64 && usage.cached_tokens == 0);

    let again = submit(&mut engine, Request::Chat(first.clone()), usize::MAX);
    run(&mut engine);
    let (_, usage_again) = again.lock().unwrap().finished.unwrap();
    assert_eq!(again.lock().unwrap().text.trim(), reply);
    assert_eq!(usage_again.cached_tokens, usage.prompt_tokens - 1);

    let mut second = first;
    Arc::make_mut(&mut second.messages).push(Message {
        role: Role::Assistant,
        content: vec![Content::Text(reply)],
    });
    Arc::make_mut(&mut second.messages).push(Message::user("What colour is it?"));
    let told = submit(&mut engine, Request::Chat(second.clone()), usize::MAX);
    run(&mut engine);
    let (_, usage_second) = told.lock().unwrap().finished.unwrap();
    assert!(usage_second.cached_tokens >= usage.prompt_tokens);
    // The same as where nothing is known before.
    let mut fresh = Engine::new(&nano, options()).unwrap();
    let alone = submit(&mut fresh, Request::Chat(second), usize::MAX);
    run(&mut fresh);
    assert_eq!(told.lock().unwrap().text, alone.lock().unwrap().text);
}

#[test]
fn memory_decides_how_many_run_and_all_come_to_an_end() {
    let nano = nano();
    let bounds = EngineOptions {
        cache_bytes: Some(1),
        ..options()
    };
    let mut engine = Engine::new(&nano, bounds).unwrap();
    let told: Vec<_> = (0..3)
        .map(|seed| Request::Chat(chat("What can fly?", &[], seed)))
        .map(|request| submit(&mut engine, request, usize::MAX))
        .collect();
    while engine.step() {
        assert!(engine.statistics().running <= 1);
    }
    assert!(
        told.iter()
            .all(|told| told.lock().unwrap().finished.is_some())
    );
    // Nothing is kept where there is no room.
    assert_eq!(engine.statistics().cache_bytes, 0);
}
