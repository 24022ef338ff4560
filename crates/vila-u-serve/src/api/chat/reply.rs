//! One reply as it is written: what each event of the engine adds to it.

use serde::Serialize;
use utoipa::ToSchema;
use vila_u::{
    Generated,
    engine::{self, Event, FinishReason, Logprobs},
};

use crate::{
    app::Shared,
    errors::ApiError,
    pictures::{Output, data_url, encoding, to_file, to_video},
};

#[derive(Default)]
pub struct Reply {
    begun: bool,
    images: usize,
    pub finished: Option<FinishReason>,
    usage: Option<engine::Usage>,
}

/// What an event adds to a reply.
#[derive(Default)]
pub struct Delta {
    pub text: String,
    pub logprobs: Vec<TokenLogprobs>,
    pub image: Option<Media>,
}

/// A token with what else was probable in its place
#[derive(Serialize, ToSchema)]
pub struct TokenLogprobs {
    #[serde(flatten)]
    sampled: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

#[derive(Serialize, ToSchema)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl TokenLogprobs {
    fn new(logprobs: Logprobs) -> Self {
        Self {
            sampled: TokenLogprob::new(logprobs.sampled),
            top_logprobs: logprobs.top.into_iter().map(TokenLogprob::new).collect(),
        }
    }
}

impl TokenLogprob {
    fn new(token: engine::TokenLogprob) -> Self {
        Self {
            token: String::from_utf8_lossy(&token.bytes).into_owned(),
            // JSON has no infinity.
            logprob: token.logprob.max(-9999.0),
            bytes: token.bytes,
        }
    }
}

/// A picture or a video of a reply: `image_url` or `video_url`, with a data URL
#[derive(Serialize, ToSchema)]
pub struct Media {
    r#type: &'static str,
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<Url>,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_url: Option<Url>,
}

#[derive(Serialize, ToSchema)]
struct Url {
    url: String,
}

impl Reply {
    /// Nothing where an event adds nothing.
    pub async fn read(&mut self, app: &Shared, event: Event) -> Result<Option<Delta>, ApiError> {
        Ok(match event {
            Event::Text { text, logprobs } => self.text(text, logprobs),
            Event::Generated(generated) => {
                let image = Some(self.image(app, generated).await?);
                Some(Delta {
                    image,
                    ..Delta::default()
                })
            }
            Event::Finished { reason, usage } => {
                self.finished = Some(reason);
                self.usage = Some(usage);
                Some(Delta::default())
            }
            _ => None,
        })
    }

    /// A reply begins with a space that belongs to the conversation's template.
    fn text(&mut self, text: String, logprobs: Vec<Logprobs>) -> Option<Delta> {
        let text = if self.begun {
            text
        } else {
            text.trim_start().to_string()
        };
        self.begun |= !text.is_empty();
        let logprobs: Vec<_> = logprobs.into_iter().map(TokenLogprobs::new).collect();
        let some = !text.is_empty() || !logprobs.is_empty();
        some.then_some(Delta {
            text,
            logprobs,
            image: None,
        })
    }

    async fn image(&mut self, app: &Shared, generated: Generated) -> Result<Media, ApiError> {
        let index = self.images;
        self.images += 1;
        encoding(app, move || {
            let media = |r#type, image_url, video_url| Media {
                r#type,
                index,
                image_url,
                video_url,
            };
            let url = |mime, bytes: &[u8]| {
                let url = data_url(mime, bytes);
                Some(Url { url })
            };
            Ok(match generated.frames.as_slice() {
                [image] => {
                    let png = to_file(image, Output::default())?;
                    media("image_url", url("image/png", &png), None)
                }
                frames => media("video_url", None, url("video/mp4", &to_video(frames)?)),
            })
        })
        .await
    }
}

#[derive(Default, Serialize, ToSchema)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Default, Serialize, ToSchema)]
struct PromptDetails {
    /// Positions of the prompt that were read before, for another request
    cached_tokens: usize,
}

impl Usage {
    /// The prompt counts once, however many replies it has.
    pub fn of(replies: &[Reply]) -> Self {
        let mut all = Self::default();
        for usage in replies.iter().filter_map(|reply| reply.usage) {
            if all.prompt_tokens == 0 {
                all.prompt_tokens = usage.prompt_tokens;
                all.prompt_tokens_details.cached_tokens = usage.cached_tokens;
            }
            all.completion_tokens += usage.completion_tokens;
        }
        all.total_tokens = all.prompt_tokens + all.completion_tokens;
        all
    }
}
