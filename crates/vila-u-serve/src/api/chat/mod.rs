//! `/v1/chat/completions`: conversations about pictures and videos, answered in words and pictures.

mod chunk;
mod reply;
mod request;

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use vila_u::engine::{Event, FinishReason, Request};

use crate::{
    app::{Shared, new_id, now},
    body::Json,
    errors::{self, ApiError, Errors},
    sse,
    worker::Events,
};

use chunk::{Chunk, Delta};
use reply::{Media, Reply, TokenLogprobs, Usage};
use request::ChatRequest;

#[derive(Serialize, ToSchema)]
struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

/// What else was probable in the place of each token
#[derive(Default, Serialize, ToSchema)]
struct Logprobs {
    content: Vec<TokenLogprobs>,
    refusal: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReplyMessage)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<String>,
    /// Pictures and videos of the reply, where `modalities` asked for them
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Media>,
}

/// Answer a conversation
///
/// With `stream`, events of `chat.completion.chunk` objects, and `[DONE]` at the end.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "chat", request_body = ChatRequest, responses((status = 200, description = "The answer", content((ChatCompletion = "application/json"), (String = "text/event-stream"))), Errors))]
pub async fn complete(
    State(app): State<Shared>,
    Json(request, held): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let params = request.params()?;
    let chats = request.chats(&app, &model.card, &params).await?;
    drop(held);
    let n = chats.len();
    let mut events = model
        .worker
        .submit(chats.into_iter().map(Request::Chat).collect())?;
    let answer = Answer {
        id: new_id("chatcmpl-"),
        created: now(),
        model: model.card.id.clone(),
        include_usage: params.include_usage,
        logprobs: params.top_logprobs.is_some(),
        replies: (0..n).map(|_| Reply::default()).collect(),
        app: app.clone(),
    };
    if params.stream {
        // A refusal can still be the status.
        events.begin().await?;
        Ok(sse::stream(|sender| answer.stream(events, sender)))
    } else {
        answer.whole(events).await
    }
}

/// An answer on its way.
struct Answer {
    app: Shared,
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    logprobs: bool,
    replies: Vec<Reply>,
}

impl Answer {
    async fn whole(mut self, mut events: Events) -> Result<Response, ApiError> {
        let choice = |index| Choice {
            index,
            message: Message {
                role: "assistant",
                content: String::new(),
                refusal: None,
                images: Vec::new(),
            },
            logprobs: self.logprobs.then(Logprobs::default),
            finish_reason: reason(None),
        };
        let mut choices: Vec<Choice> = (0..self.replies.len()).map(choice).collect();
        while let Some((index, event)) = events.next().await? {
            let reply = &mut self.replies[index];
            let Some(delta) = reply.read(&self.app, event).await? else {
                continue;
            };
            let choice = &mut choices[index];
            choice.message.content += &delta.text;
            choice.message.images.extend(delta.image);
            if let Some(logprobs) = &mut choice.logprobs {
                logprobs.content.extend(delta.logprobs);
            }
            choice.finish_reason = reason(reply.finished);
        }
        Ok(errors::json(&ChatCompletion {
            choices,
            usage: Usage::of(&self.replies),
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
        }))
    }

    async fn stream(mut self, mut events: Events, sender: sse::Sender) -> Result<(), ApiError> {
        for index in 0..self.replies.len() {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                ..Delta::default()
            };
            let chunk = Chunk::new(&self, index, delta, None, None);
            sender.data(&chunk).await?;
        }
        while let Some((index, event)) = events.next().await? {
            if let Event::Progress { done, total } = event {
                let chunk = Chunk::progress(&self, index, done, total);
                sender.data(&chunk).await?;
                continue;
            }
            let Some(added) = self.replies[index].read(&self.app, event).await? else {
                continue;
            };
            let finished = self.replies[index].finished;
            let chunk = if let Some(image) = added.image {
                let images = vec![image];
                let delta = Delta {
                    images,
                    ..Delta::default()
                };
                Chunk::new(&self, index, delta, None, None)
            } else if finished.is_some() {
                Chunk::new(&self, index, Delta::default(), None, Some(reason(finished)))
            } else {
                let content = added.logprobs;
                let logprobs = self.logprobs.then_some(Logprobs {
                    content,
                    refusal: None,
                });
                let delta = Delta {
                    content: Some(added.text),
                    ..Delta::default()
                };
                Chunk::new(&self, index, delta, logprobs, None)
            };
            sender.data(&chunk).await?;
        }
        if self.include_usage {
            let chunk = Chunk::usage(&self);
            sender.data(&chunk).await?;
        }
        sender.done().await
    }
}

fn reason(finished: Option<FinishReason>) -> &'static str {
    match finished {
        Some(FinishReason::Length) => "length",
        Some(FinishReason::Stop) | None => "stop",
    }
}
