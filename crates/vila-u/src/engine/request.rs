//! What is asked of the engine, and what it tells about it.

use std::{ops::ControlFlow, sync::Arc};

use image::RgbImage;

use crate::{
    Error,
    media::Picture,
    pipeline::{AskOptions, GenerateOptions, Generated},
};

/// Who says a message of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// In place of the conversation template's own system sentence.
    System,
    User,
    Assistant,
}

/// A part of a message.
#[derive(Clone, Debug)]
pub enum Content {
    Text(String),
    Image(Picture),
    /// Frames; the model sees [`crate::Pipeline::video_frames`] of them, evenly from the first to the last.
    Video(Vec<Picture>),
}

/// One message of a conversation, its parts in reading order.
#[derive(Clone, Debug)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Content>,
}

/// A conversation whose next message the model writes.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Shared by the replies to one conversation.
    pub messages: Arc<Vec<Message>>,
    pub options: AskOptions,
    /// The reply ends before the first of these texts.
    pub stop: Vec<String>,
    /// Whether the model may generate images and videos in its reply.
    pub visual: bool,
    /// Of every token of text, its log probability and those of so many of the most probable tokens.
    pub top_logprobs: Option<usize>,
}

/// An image or a video to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    pub prompt: String,
    pub kind: VisualKind,
    pub options: GenerateOptions,
    /// The number of the image among those of one seed; each has random choices of its own.
    pub index: usize,
    /// How many previews to give on the way, evenly spread.
    pub previews: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisualKind {
    Image,
    Video,
}

#[derive(Clone, Debug)]
pub enum Request {
    Chat(Chat),
    Generate(Generation),
}

/// A token with its log probability under the model's own distribution, before temperature and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub token: i64,
    /// As the vocabulary spells it, which may be a part of a character.
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// One sampled token of text and what else was probable in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    pub sampled: TokenLogprob,
    pub top: Vec<TokenLogprob>,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// It is as long as was allowed, or as fits the model's context.
    Length,
}

/// What a finished request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Positions of the prompt, those of images included.
    pub prompt_tokens: usize,
    /// Of these, read from the prefix cache.
    pub cached_tokens: usize,
    /// Text tokens and visual tokens of the reply.
    pub completion_tokens: usize,
}

/// What happens to a request, in this order: `Started`, any number of the next four, then `Finished` or `Failed`, which
/// is the last. `Failed` may come at any time.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// It waits to begin, or its prompt is being read: told at every step, so that a request whose listener is gone
    /// is forgotten.
    Waiting,
    /// Its prompt is going to be read.
    Started,
    /// The next piece of the reply's text, and its tokens if [`Chat::top_logprobs`] asked for them. The first piece
    /// may begin with a space.
    Text {
        text: String,
        logprobs: Vec<Logprobs>,
    },
    /// Visual tokens sampled so far of the image or video being generated.
    Progress {
        done: usize,
        total: usize,
    },
    /// What it looks like so far: one picture, or every frame of a video.
    Preview(Vec<RgbImage>),
    /// A finished image or video.
    Generated(Generated),
    Finished {
        reason: FinishReason,
        usage: Usage,
    },
    Failed(Error),
}

/// Is told of every event of a request; [`ControlFlow::Break`] ends the request, which frees its memory and gives no
/// more events.
pub type OnEvent<'a> = Box<dyn FnMut(Event) -> ControlFlow<()> + Send + 'a>;

/// Who is told of the events of a request.
pub(super) struct Listener<'a> {
    on_event: OnEvent<'a>,
    pub gone: bool,
}

impl<'a> Listener<'a> {
    pub(super) fn new(on_event: OnEvent<'a>) -> Self {
        Self {
            on_event,
            gone: false,
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if !self.gone {
            self.gone = (self.on_event)(event).is_break();
        }
    }
}

impl Chat {
    /// A conversation with default options.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages: Arc::new(messages),
            options: AskOptions::default(),
            stop: Vec::new(),
            visual: true,
            top_logprobs: None,
        }
    }
}

impl Message {
    pub fn user(text: impl Into<String>) -> Self {
        Self {
            role: Role::User,
            content: vec![Content::Text(text.into())],
        }
    }
}
