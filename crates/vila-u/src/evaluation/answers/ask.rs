//! Many questions, answered side by side.

use std::{
    mem,
    ops::ControlFlow,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use super::{Item, Media};
use crate::{
    AskOptions, Error, Pipeline, Result,
    catch_unwind::catch_unwind_silent,
    engine::{Chat, Content, Engine, EngineOptions, Event, Message, Request, Role},
    media::{self, Picture, preprocess::square},
};

/// Questions whose pictures are ready and that wait for the engine.
const AHEAD: usize = 16;

/// Threads that decode pictures and videos: a video takes longer than an answer about it.
const DECODERS: usize = 4;

/// Answers the items, as many at once as the engine takes.
///
/// `on_step` gets after every step the replies that ended with it by the numbers of their items, or why there is none, and
/// ends all by an error. A reply does not depend on the others.
pub(super) fn answer_all(
    pipeline: &Pipeline,
    items: &[Asked],
    options: &AskOptions,
    on_step: &mut dyn FnMut(Vec<Reply>) -> Result<()>,
) -> Result<()> {
    let engine_options = EngineOptions::default();
    let mut engine = Engine::new(pipeline, engine_options)?;
    let (told, replies) = mpsc::channel();
    let next = &AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, decoded) = mpsc::sync_channel(AHEAD);
        for _ in 0..DECODERS.min(items.len()) {
            let sender = sender.clone();
            scope.spawn(move || {
                while let Some(asked) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let content = catch_unwind_silent(|| content(pipeline, asked.item));
                    let content = content.unwrap_or_else(|| Err(Error::failed("a damaged file")));
                    // After an error nobody takes it.
                    if sender.send((asked, content)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut running = 0;
        loop {
            while running < engine_options.max_running {
                let received = match running {
                    // The engine has nothing to do meanwhile.
                    0 => decoded.recv().ok(),
                    _ => decoded.try_recv().ok(),
                };
                match received {
                    Some((asked, Ok(content))) => {
                        let chat = asked.chat(content, options);
                        submit(&mut engine, chat, asked.number, told.clone());
                        running += 1;
                    }
                    Some((asked, Err(error))) => on_step(vec![(asked.number, Err(error))])?,
                    None => break,
                }
            }
            if running == 0 {
                return Ok(());
            }
            engine.step();
            let ended: Vec<Reply> = replies.try_iter().collect();
            running -= ended.len();
            on_step(ended)?;
        }
    })
}

/// The number of an item and what was replied.
pub(super) type Reply = (usize, Result<String>);

/// An item that is to be answered.
pub(super) struct Asked<'a> {
    /// Which item of the set it is.
    pub number: usize,
    pub item: &'a Item,
    pub prompt: String,
}

impl Asked<'_> {
    fn chat(&self, mut content: Vec<Content>, options: &AskOptions) -> Chat {
        content.push(Content::Text(self.prompt.clone()));
        let role = Role::User;
        let mut chat = Chat::new(vec![Message { role, content }]);
        chat.visual = false;
        chat.options = options.clone();
        // The same in every run, whichever items are left to be answered.
        let seed = options.seed.unwrap_or_default();
        chat.options.seed = Some(seed.wrapping_add(self.number as u64));
        chat
    }
}

/// The pictures and frames of an item, as small as the model sees them: those of many items wait at the same time.
fn content(pipeline: &Pipeline, item: &Item) -> Result<Vec<Content>> {
    let config = &pipeline.checkpoint()?.config.root;
    let (image, frame) = (config.inference_resize(), config.training_resize());
    let size = pipeline.image_size() as u32;
    let seen = |media: &Media| match media {
        Media::Image(path) => {
            let picture = media::load(path)?;
            Ok(Content::Image(square(&picture, size, image).into()))
        }
        Media::Video(path) => {
            let frames = pipeline.load_video(path)?;
            let small = |picture: &Picture| square(picture, size, frame).into();
            Ok(Content::Video(frames.iter().map(small).collect()))
        }
        Media::MissingVideo(_) => Err(Error::failed("the video is not in the folder")),
    };
    item.media.iter().map(seen).collect()
}

fn submit(engine: &mut Engine, chat: Chat, number: usize, told: Sender<Reply>) {
    let mut reply = String::new();
    let on_event = move |event| {
        let ended = match event {
            Event::Text { text, .. } => {
                reply += &text;
                return ControlFlow::Continue(());
            }
            Event::Finished { .. } => Ok(mem::take(&mut reply).trim().to_string()),
            Event::Failed(error) => Err(error),
            _ => return ControlFlow::Continue(()),
        };
        // Who asked is gone after an error.
        match told.send((number, ended)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    engine.submit(Request::Chat(chat), Box::new(on_event));
}
