//! A request, from what the model is to read for it to what it has become.

use burn::tensor::Tensor;

use super::{
    prompt::{Prompt, PromptReader},
    request::{Chat, Event, FinishReason, Generation, Listener, Request, Usage, VisualKind},
    sequence::{ContentIds, Sequence},
    text::{Next, TextReply},
    visual::VisualReply,
};
use crate::{
    Error, Pipeline, Result,
    checkpoint::Checkpoint,
    generation::{chat, interleaved::Modality, sampling::Sampler, visual::VisualOptions},
    language::Llama,
    model::VilaU,
    text::conversation::{self, unconditional_prompt},
};

/// A prompt with the most positions that come of it.
pub(super) struct Beginning {
    pub ids: ContentIds,
    /// `[positions, hidden]`
    pub embeds: Tensor<2>,
    pub limit: usize,
}

impl Beginning {
    /// - `following`: the least positions that are read after the prompt
    ///
    /// A usage error where these are more than the model reads; nothing is computed for such a prompt.
    pub(super) fn new(
        pipeline: &Pipeline,
        reader: &mut PromptReader,
        prompt: &Prompt,
        following: usize,
    ) -> Result<Self> {
        let model = &pipeline.checkpoint()?.model;
        let length = prompt.length(model.image_tokens());
        let context = model.llm.context_length();
        if length + following > context {
            return Err(Error::usage(format!(
                "the prompt takes {length} positions and the reply {following} or more, and the model reads at most \
                 {context}: shorten the text or give fewer images"
            )));
        }
        let (ids, embeds) = reader.read(pipeline, prompt)?;
        Ok(Self {
            ids,
            embeds,
            limit: length + following,
        })
    }
}

/// A request whose prompt is known.
pub(super) struct Prepared<'a> {
    pub prompt: Beginning,
    /// The prompt that guidance steers away from.
    pub unconditional: Option<Beginning>,
    /// The most bytes that its keys and values come to; of a conversation that may open images, with one of them.
    pub bytes: u64,
    pub reply: Reply<'a>,
}

/// What the model writes.
pub(super) struct Reply<'a> {
    /// In a conversation.
    pub text: Option<TextReply<'a>>,
    /// The image or video that is being generated.
    pub visual: Option<VisualReply>,
    /// How those that a conversation opens are generated; `first` numbers the next.
    pub options: VisualOptions,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        reader: &mut PromptReader,
        request: &Request,
    ) -> Result<Self> {
        match request {
            Request::Chat(request) => Self::chat(pipeline, reader, request),
            Request::Generate(request) => Self::generation(pipeline, reader, request),
        }
    }

    fn chat(pipeline: &'a Pipeline, reader: &mut PromptReader, request: &Chat) -> Result<Self> {
        let Checkpoint {
            model,
            tokenizer,
            generation,
            ..
        } = pipeline.checkpoint()?;
        let asked = &request.options;
        if asked.max_tokens == 0 {
            return Err(Error::usage("a reply has at least one token"));
        }
        let seed = pipeline.seed(asked.seed);
        let (sampling, options) = (asked.text(generation), asked.visual(generation, seed));
        sampling.check()?;
        options.check()?;
        let prompt = Prompt::chat(pipeline, tokenizer, request)?;
        let mut prompt = Beginning::new(pipeline, reader, &prompt, 1)?;
        let context = model.llm.context_length();
        let left = asked.max_tokens.min(context - prompt.ids.len());
        let frames = pipeline.video_frames()?;
        let modalities = chat::modalities(tokenizer, frames, asked.system_prompt)?;
        let mut positions = prompt.ids.len() + left;
        prompt.limit = positions;
        if let Some(image) = modalities.first().filter(|_| request.visual) {
            // An image takes positions beside those of text, and again after the unconditional prompt.
            prompt.limit = context;
            positions += 2 * model.image_tokens() + image.unconditional.len();
        }
        let sampler = Sampler::new(sampling, seed, 0);
        let text = TextReply::new(tokenizer, request, sampler, left, modalities);
        Ok(Self {
            bytes: model.llm.cache_bytes(positions),
            prompt,
            unconditional: None,
            reply: Reply {
                text: Some(text),
                visual: None,
                options,
            },
        })
    }

    fn generation(
        pipeline: &'a Pipeline,
        reader: &mut PromptReader,
        request: &Generation,
    ) -> Result<Self> {
        let Checkpoint {
            model,
            tokenizer,
            generation,
            ..
        } = pipeline.checkpoint()?;
        let seed = pipeline.seed(request.options.seed);
        let mut options = request.options.resolve(generation, seed);
        options.check()?;
        options.first = request.index;
        let (ids, reply, frames) = match request.kind {
            VisualKind::Image => {
                let ids = chat::image_prompt(tokenizer, &request.prompt)?;
                (ids, conversation::Reply::Image, 1)
            }
            VisualKind::Video => {
                let ids = chat::video_prompt(tokenizer, &request.prompt)?;
                (ids, conversation::Reply::Video, pipeline.video_frames()?)
            }
        };
        let total = frames * model.image_tokens();
        let mut begin =
            |ids: Vec<i64>| Beginning::new(pipeline, reader, &Prompt::text(ids), total - 1);
        let prompt = begin(ids)?;
        let unconditional = if options.guided() {
            let ids = tokenizer.encode_prompt(&unconditional_prompt(reply, true)?);
            Some(begin(ids)?)
        } else {
            None
        };
        let positions = prompt.limit + unconditional.as_ref().map_or(0, |one| one.limit);
        let visual = VisualReply::new(model, frames, &options, request.previews);
        Ok(Self {
            bytes: model.llm.cache_bytes(positions),
            prompt,
            unconditional,
            reply: Reply {
                text: None,
                visual: Some(visual),
                options,
            },
        })
    }
}

/// A request that the model is at work on.
pub(super) struct Running<'a> {
    pub listener: Listener<'a>,
    pub sequence: Sequence,
    /// Reads the same visual tokens after the unconditional prompt, whose length stands beside it.
    pub unconditional: Option<(Sequence, usize)>,
    pub reply: Reply<'a>,
    pub usage: Usage,
    /// The most bytes that its keys and values come to.
    pub reserved: u64,
    /// Nothing more is to be done for it.
    pub ended: bool,
}

impl<'a> Running<'a> {
    /// The sequences that read for it.
    pub(super) fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        let unconditional = self.unconditional.as_ref().map(|(sequence, _)| sequence);
        std::iter::once(&self.sequence).chain(unconditional)
    }

    pub(super) fn sequences_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        let unconditional = self.unconditional.as_mut().map(|(sequence, _)| sequence);
        std::iter::once(&mut self.sequence).chain(unconditional)
    }

    /// Whether a token can be sampled.
    pub(super) fn is_ready(&self) -> bool {
        self.sequences().all(|sequence| sequence.hidden.is_some())
    }

    pub(super) fn finish(&mut self, reason: FinishReason) {
        if let Some(text) = &mut self.reply.text {
            text.finish(&mut self.listener);
        }
        let usage = self.usage;
        self.listener.tell(Event::Finished { reason, usage });
        self.ended = true;
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.listener.tell(Event::Failed(error));
        self.ended = true;
    }

    /// Tells of a token of text and lets the sequence read it. What the token opens, if it does.
    pub(super) fn read_text(&mut self, llm: &Llama, token: i64) -> Option<Modality> {
        let text = self.reply.text.as_mut()?;
        self.usage.completion_tokens += 1;
        let next = text.push(token, &mut self.listener);
        if let Next::End(reason) = next {
            self.finish(reason);
            return None;
        }
        self.sequence.push([token as u64], llm.embed_ids(&[token]));
        match next {
            Next::Open(modality) => Some(modality),
            _ => None,
        }
    }

    /// Begins an image or a video in the reply; `unconditional` where they are guided.
    pub(super) fn open(
        &mut self,
        model: &VilaU,
        modality: &Modality,
        unconditional: Option<(Sequence, usize)>,
    ) {
        self.unconditional = unconditional;
        let options = &mut self.reply.options;
        let mut visual = VisualReply::new(model, modality.frames, options, 0);
        visual.end = Some(modality.end);
        options.first += 1;
        self.reply.visual = Some(visual);
    }

    /// Lets its sequences read the visual token that was sampled, `[1, hidden]`, and tells of it.
    pub(super) fn read_visual(&mut self, model: &VilaU, embed: Tensor<2>, id: u64) -> Result<()> {
        let Some(visual) = &mut self.reply.visual else {
            return Ok(());
        };
        self.usage.completion_tokens += 1;
        visual.tell(model, &mut self.listener)?;
        if !visual.is_done() {
            if let Some((sequence, _)) = &mut self.unconditional {
                sequence.push([id], embed.clone());
            }
            self.sequence.push([id], embed);
            return Ok(());
        }
        let generated = visual.generated(model)?;
        self.listener.tell(Event::Generated(generated));
        let end = visual.end;
        self.reply.visual = None;
        let (Some(end), Some(text)) = (end, &mut self.reply.text) else {
            self.finish(FinishReason::Stop);
            return Ok(());
        };
        // The last visual token and the one that ends the image take a position each.
        let read = self.sequence.filled() + 2;
        text.left = text
            .left
            .min(model.llm.context_length().saturating_sub(read));
        self.sequence.push([id], embed);
        self.sequence
            .push([end as u64], model.llm.embed_ids(&[end]));
        if text.left == 0 {
            self.finish(FinishReason::Length);
        }
        Ok(())
    }
}
