//! What a reply is, where it ends, and what becomes of requests that cannot be carried out.

use super::*;

#[test]
fn a_reply_ends_at_its_stop_text_its_length_or_with_its_listener() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let mut whole = chat("What is in this picture?", &[picture(0)], 0);
    whole.options.greedy = true;
    let all = submit(&mut engine, Request::Chat(whole.clone()), usize::MAX);
    run(&mut engine);
    let all = all.lock().unwrap().text.clone();
    let words: Vec<&str> = all.split_whitespace().collect();
    assert!(words.len() > 1, "{all}");

    let mut stopped = whole.clone();
    stopped.stop = vec![words[1].into()];
    let told = submit(&mut engine, Request::Chat(stopped), usize::MAX);
    let mut short = whole.clone();
    short.options.max_tokens = 1;
    let cut = submit(&mut engine, Request::Chat(short), usize::MAX);
    let gone = submit(&mut engine, Request::Chat(whole.clone()), 1);
    run(&mut engine);
    assert_eq!(told.lock().unwrap().text.trim(), words[0]);
    assert_eq!(told.lock().unwrap().finished.unwrap().0, FinishReason::Stop);
    let (reason, usage) = cut.lock().unwrap().finished.unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 1));
    assert!(gone.lock().unwrap().finished.is_none() && gone.lock().unwrap().text.len() < all.len());
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let mut asked = chat("What is in this picture?", &[picture(0)], 0);
    asked.options.greedy = true;
    asked.top_logprobs = Some(3);
    let told = submit(&mut engine, Request::Chat(asked.clone()), usize::MAX);
    run(&mut engine);
    let told = told.lock().unwrap();
    assert_eq!(
        told.logprobs.len(),
        told.finished.unwrap().1.completion_tokens
    );
    let mut bytes = Vec::new();
    for one in &told.logprobs {
        assert_eq!(one.top[0], one.sampled);
        assert!(one.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        assert!(one.sampled.logprob <= 0.0);
        bytes.extend(&one.sampled.bytes);
    }
    assert_eq!(String::from_utf8(bytes).unwrap().trim(), told.text.trim());
}

#[test]
fn a_request_that_cannot_be_carried_out_harms_no_other() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let good = submit(&mut engine, Request::Chat(chat("Why?", &[], 0)), usize::MAX);
    let mut assistant = chat("Why?", &[], 0);
    Arc::make_mut(&mut assistant.messages)[0].role = Role::Assistant;
    let long = chat(&"word ".repeat(10_000), &[], 0);
    let empty = Chat::new(vec![Message {
        role: Role::User,
        content: vec![Content::Video(Vec::new())],
    }]);
    let mut hot = chat("Why?", &[], 0);
    hot.options.temperature = Some(f64::NAN);
    let bad = [assistant, long, empty, hot].map(Request::Chat);
    let bad = bad
        .into_iter()
        .chain([Request::Generate(image("an <image>", 0, 0, 3.0))]);
    let bad: Vec<_> = bad
        .map(|request| submit(&mut engine, request, usize::MAX))
        .collect();
    run(&mut engine);
    assert!(good.lock().unwrap().finished.is_some());
    for told in bad {
        assert!(told.lock().unwrap().finished.is_none());
        assert!(told.lock().unwrap().failed.is_some());
    }
}

#[test]
fn previews_are_spread_evenly_and_videos_have_their_frames() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let mut still = image("a red heart", 1, 0, 3.0);
    still.previews = 3;
    let mut video = image("a red heart moves to the left", 1, 0, 3.0);
    video.kind = VisualKind::Video;
    let expected = nano.generate_video(&video.prompt, &video.options).unwrap();
    let still = submit(&mut engine, Request::Generate(still), usize::MAX);
    let video = submit(&mut engine, Request::Generate(video), usize::MAX);
    run(&mut engine);
    assert_eq!(still.lock().unwrap().previews, 3);
    assert_eq!(video.lock().unwrap().generated[0].frames, expected);
}

#[test]
fn literal_placeholders_in_words_place_nothing_unless_they_name_each_image() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let tokens = |engine: &mut Engine, text: &str, images: usize| {
        let images = vec![picture(1); images];
        let told = submit(engine, Request::Chat(chat(text, &images, 0)), usize::MAX);
        run(engine);
        let told = told.lock().unwrap();
        (
            told.failed.clone(),
            told.finished.map(|(_, usage)| usage.prompt_tokens),
        )
    };
    let (failed, two) = tokens(&mut engine, "Is <image> the same as <image>?", 2);
    assert_eq!(failed, None);
    assert!(two.unwrap() > 128);
    let (failed, one) = tokens(&mut engine, "Is <image> the same as <image>?", 1);
    assert_eq!(failed, None);
    assert!((64..128).contains(&one.unwrap()));
    let (failed, none) = tokens(&mut engine, "What is an <image> or </s>?", 0);
    assert_eq!(failed, None);
    assert!(none.unwrap() < 80);
}

#[test]
fn who_hangs_up_while_waiting_waits_no_longer() {
    let nano = nano();
    let bounds = EngineOptions {
        max_running: 1,
        ..options()
    };
    let mut engine = Engine::new(&nano, bounds).unwrap();
    let first = submit(&mut engine, Request::Chat(chat("Why?", &[], 0)), usize::MAX);
    for _ in 0..3 {
        let gone = Request::Generate(image("a tree", 0, 0, 3.0));
        engine.submit(gone, Box::new(|_| ControlFlow::Break(())));
    }
    assert!(engine.step());
    assert_eq!(engine.statistics().waiting, 0);
    run(&mut engine);
    assert!(first.lock().unwrap().finished.is_some());
}

#[test]
fn pictures_stand_where_their_messages_do() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let mut reply = |chat: Chat| {
        let told = submit(&mut engine, Request::Chat(chat), usize::MAX);
        run(&mut engine);
        let told = told.lock().unwrap();
        (told.text.clone(), told.finished.unwrap().1.prompt_tokens)
    };
    let alone = chat("What is in this picture?", &[picture(200)], 0);
    let message = |role, red| Message {
        role,
        content: vec![Content::Image(picture(red).into())],
    };
    // The template has no place for a greeting, nor for its picture.
    let mut greeted = alone.clone();
    Arc::make_mut(&mut greeted.messages).insert(0, message(Role::Assistant, 0));
    assert_eq!(reply(greeted), reply(alone.clone()));
    // A question before its picture is asked about it, as one behind it is.
    let mut question_first = alone.clone();
    let content = &mut Arc::make_mut(&mut question_first.messages)[0].content;
    content.reverse();
    assert!(matches!(content[0], Content::Text(_)));
    assert_eq!(reply(question_first), reply(alone.clone()));
    // What the system says comes first.
    let mut before = alone.clone();
    Arc::make_mut(&mut before.messages).insert(0, message(Role::System, 0));
    let mut after = alone;
    Arc::make_mut(&mut after.messages).push(message(Role::System, 0));
    assert_eq!(reply(before), reply(after));
}

#[test]
fn a_prompt_that_is_too_long_is_refused_before_anything_is_computed() {
    let nano = nano();
    let mut engine = Engine::new(&nano, options()).unwrap();
    let pictures: Vec<_> = (0..100).map(picture).collect();
    let asked = chat("What is in these?", &pictures, 0);
    let told = submit(&mut engine, Request::Chat(asked), usize::MAX);
    run(&mut engine);
    let message = told.lock().unwrap().failed.clone().unwrap();
    assert!(message.contains("give fewer images"), "{message}");
    assert_eq!(engine.reader.encoded, 0);
}
