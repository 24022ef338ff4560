//! What clients send, and what the engine is params.

use serde::Deserialize;
use utoipa::ToSchema;
use vila_u::{
    AskOptions,
    engine::{self, Chat, Content, Role},
};

use crate::{
    api::{models::ModelCard, sampling},
    app::Shared,
    errors::ApiError,
    lenient,
    media::{self, Address, Kind, Media},
};

/// Replies of one request.
const MAX_REPLIES: usize = 16;
const MAX_STOPS: usize = 64;
/// Bytes of each.
const MAX_STOP_LENGTH: usize = 1024;
const MAX_LOGPROBS: usize = 20;

#[derive(Deserialize, ToSchema)]
pub struct ChatRequest {
    messages: Vec<Message>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Tokens of the reply at most; what does not fit the model is cut off, and -1 is as many as fit
    #[serde(default, deserialize_with = "lenient::limit")]
    max_tokens: Option<usize>,
    #[serde(default, deserialize_with = "lenient::limit")]
    max_completion_tokens: Option<usize>,
    /// 0 takes the most probable token
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// The same seed gives the same reply; -1 is a new one
    #[serde(default, deserialize_with = "lenient::seed")]
    seed: Option<u64>,
    /// The reply ends before the first of these texts
    stop: Option<OneOrMany>,
    /// How many replies, 1 to 16
    #[serde(default, deserialize_with = "lenient::count")]
    #[schema(minimum = 1, maximum = 16)]
    n: Option<usize>,
    logprobs: Option<bool>,
    /// 0 to 20
    #[serde(default, deserialize_with = "lenient::count")]
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,
    /// With "image" among them, the reply may hold pictures and videos
    modalities: Option<Vec<String>>,
    /// Weight of classifier-free guidance of pictures in the reply; 1 turns it off
    cfg: Option<f64>,
}

#[derive(Deserialize, ToSchema)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Stop)]
#[serde(untagged, expecting = "write a text, or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
struct Message {
    /// system, developer, user, assistant or tool
    #[schema(pattern = "^(system|developer|user|assistant|tool)$")]
    role: String,
    content: Option<Parts>,
    /// Pictures of an earlier reply, as they came
    images: Option<Vec<Part>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "write a text, or a list of parts: {\"type\": \"text\", \"text\": ...}, \
                 {\"type\": \"image_url\", \"image_url\": {\"url\": ...}} or the same with video_url"
)]
enum Parts {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message: `text`, `image_url` or `video_url`
#[derive(Deserialize, ToSchema)]
struct Part {
    #[schema(pattern = "^(text|image_url|video_url)$")]
    r#type: String,
    text: Option<String>,
    image_url: Option<Address>,
    video_url: Option<Address>,
}

/// What is asked besides the conversation, checked.
pub struct ChatParams {
    pub stream: bool,
    pub include_usage: bool,
    pub top_logprobs: Option<usize>,
    n: usize,
    stop: Vec<String>,
}

impl ChatRequest {
    pub fn params(&self) -> Result<ChatParams, ApiError> {
        if self.messages.is_empty() {
            return Err(
                ApiError::invalid("there are no messages: send at least one").param("messages"),
            );
        }
        let n = self.n.unwrap_or(1);
        if !(1..=MAX_REPLIES).contains(&n) {
            return Err(
                ApiError::invalid(format!("n is {n}: ask for 1 to {MAX_REPLIES} replies"))
                    .param("n"),
            );
        }
        let top = self.top_logprobs.unwrap_or(0);
        if top > MAX_LOGPROBS {
            let message = format!("top_logprobs is {top}: ask for at most {MAX_LOGPROBS}");
            return Err(ApiError::invalid(message).param("top_logprobs"));
        }
        let stop = match &self.stop {
            None => &[],
            Some(OneOrMany::One(text)) => std::slice::from_ref(text),
            Some(OneOrMany::Many(texts)) => texts.as_slice(),
        };
        if stop.len() > MAX_STOPS {
            let message = format!("{} stop texts: give at most {MAX_STOPS}", stop.len());
            return Err(ApiError::invalid(message).param("stop"));
        }
        if stop.iter().any(|text| text.len() > MAX_STOP_LENGTH) {
            let message = format!("a stop text is longer than {MAX_STOP_LENGTH} bytes");
            return Err(ApiError::invalid(message).param("stop"));
        }
        let wanted = self.logprobs == Some(true) || (self.logprobs.is_none() && top > 0);
        let include_usage = self
            .stream_options
            .as_ref()
            .and_then(|options| options.include_usage);
        Ok(ChatParams {
            stream: self.stream == Some(true),
            include_usage: include_usage == Some(true),
            top_logprobs: wanted.then_some(top),
            n,
            stop: stop
                .iter()
                .filter(|text| !text.is_empty())
                .cloned()
                .collect(),
        })
    }

    /// The conversation as often as there are to be replies.
    pub async fn chats(
        self,
        app: &Shared,
        card: &ModelCard,
        params: &ChatParams,
    ) -> Result<Vec<Chat>, ApiError> {
        let options = self.options(card)?;
        let seed = sampling::seed(self.seed);
        let modalities = self.modalities.unwrap_or_default();
        let visual = modalities
            .iter()
            .any(|one| ["image", "video"].contains(&one.as_str()));
        card.check_text(self.messages.iter().map(Message::length).sum(), "messages")?;
        check_positions(&self.messages, card)?;
        let mut messages = Vec::new();
        for (index, message) in self.messages.into_iter().enumerate() {
            let at = format!("messages[{index}]");
            messages.push(message.read(app, card, &at).await?);
        }
        let mut chat = Chat::new(messages);
        chat.options = options;
        chat.stop = params.stop.clone();
        chat.visual = visual;
        chat.top_logprobs = params.top_logprobs;
        let mut chats = vec![chat; params.n];
        for (index, chat) in chats.iter_mut().enumerate() {
            chat.options.seed = Some(seed.wrapping_add(index as u64));
        }
        Ok(chats)
    }

    fn options(&self, card: &ModelCard) -> Result<AskOptions, ApiError> {
        let mut options = AskOptions::default();
        let most = self.max_completion_tokens.or(self.max_tokens);
        options.max_tokens = most.unwrap_or(usize::MAX).min(card.context_length);
        [options.temperature, options.top_p] =
            sampling::check(self.temperature, self.top_p, self.cfg)?;
        options.guidance = self.cfg;
        Ok(options)
    }
}

/// Refuses more messages and pictures than the model reads, before any picture is decoded.
fn check_positions(messages: &[Message], card: &ModelCard) -> Result<(), ApiError> {
    let [rows, columns, _] = card.code_shape;
    let frames = |message: &Message| message.frames(card);
    let frames: usize = messages.iter().map(frames).sum();
    if messages.len() + frames * rows * columns <= card.context_length {
        return Ok(());
    }
    let message = format!(
        "{} messages with {frames} pictures and frames of videos are more than the {} tokens that this model reads: \
         send fewer",
        messages.len(),
        card.context_length
    );
    Err(ApiError::invalid(message).param("messages"))
}

impl Message {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        let parts = match &self.content {
            Some(Parts::Parts(parts)) => parts.as_slice(),
            _ => &[],
        };
        parts.iter().chain(self.images.iter().flatten())
    }

    /// Pictures and frames of videos in it.
    fn frames(&self, card: &ModelCard) -> usize {
        let frames = |part: &Part| match part.kind(card) {
            Some(Kind::Picture(_)) => 1,
            Some(Kind::Video(frames, _)) => frames,
            None => 0,
        };
        self.parts().map(frames).sum()
    }

    /// Bytes of its text.
    fn length(&self) -> usize {
        let text = match &self.content {
            Some(Parts::Text(text)) => text.len(),
            _ => 0,
        };
        let texts = self.parts().filter_map(|part| part.text.as_ref());
        text + texts.map(String::len).sum::<usize>()
    }

    async fn read(
        self,
        app: &Shared,
        card: &ModelCard,
        at: &str,
    ) -> Result<engine::Message, ApiError> {
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" | "tool" | "function" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let message =
                    format!("the role {other:?} is unknown: use system, user or assistant");
                return Err(ApiError::invalid(message).param(format!("{at}.role")));
            }
        };
        let mut content = Vec::new();
        let mut parts = match self.content {
            None => Vec::new(),
            Some(Parts::Text(text)) => {
                content.push(Content::Text(text));
                Vec::new()
            }
            Some(Parts::Parts(parts)) => parts,
        };
        parts.extend(self.images.into_iter().flatten());
        for (index, part) in parts.into_iter().enumerate() {
            let at = format!("{at}.content[{index}]");
            content.push(part.read(app, card, &at).await?);
        }
        Ok(engine::Message { role, content })
    }
}

impl Part {
    /// What it holds besides text. Not all clients tell pictures and videos apart.
    fn kind(&self, card: &ModelCard) -> Option<Kind> {
        let [picture, frame] = card.resize;
        let is_video = match self.r#type.as_str() {
            "image_url" | "input_image" => self.image_url.as_ref().is_some_and(Address::is_video),
            "video_url" | "input_video" => true,
            _ => return None,
        };
        Some(if is_video {
            Kind::Video(card.video_frames, frame)
        } else {
            Kind::Picture(picture)
        })
    }

    async fn read(self, app: &Shared, card: &ModelCard, at: &str) -> Result<Content, ApiError> {
        let kind = self.kind(card);
        let (text, r#type) = (self.text, self.r#type);
        let missing = |what: &str| {
            ApiError::invalid(format!("a part of type {type} has no {what}")).param(at)
        };
        let (address, field) = match r#type.as_str() {
            "text" | "input_text" | "output_text" => {
                return text.map(Content::Text).ok_or_else(|| missing("text"));
            }
            "image_url" | "input_image" => (self.image_url, "image_url"),
            _ => (self.video_url, "video_url"),
        };
        let Some(kind) = kind else {
            let message =
                format!("parts of type {type:?} are not read: send text, image_url or video_url");
            return Err(ApiError::invalid(message).param(format!("{at}.type")));
        };
        let address = address.ok_or_else(|| missing(field))?;
        Ok(
            match media::load(app, address.url(), kind, card.image_size, at).await? {
                Media::Picture(picture) => Content::Image(picture),
                Media::Video(frames) => Content::Video(frames),
            },
        )
    }
}
