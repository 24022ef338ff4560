//! Who begins when, and from what was read before.

use super::{
    Engine, Event, Usage, Waiting,
    prefix_cache::common,
    prompt::Prompt,
    reply::{Beginning, Prepared, Running},
    request::Listener,
    sequence::Sequence,
};
use crate::generation::interleaved::Modality;

/// A prompt waits for another that is being read if it then has so many positions less to read.
const WORTH_WAITING: usize = 16;
/// Bytes of keys and values of kept prompts at most.
const KEPT: u64 = 1 << 30;

impl<'a> Engine<'a> {
    /// Lets requests that wait begin, in their order, as far as memory allows. The pictures of no more than one are
    /// encoded at a step, so that those who run go on.
    pub(super) fn admit(&mut self) {
        for one in &mut self.waiting {
            one.listener.tell(Event::Waiting);
        }
        self.waiting.retain(|one| !one.listener.gone);
        let mut index = 0;
        let encoded = self.reader.encoded;
        while self.running.len() < self.options.max_running && index < self.waiting.len() {
            if self.waiting[index].prepared.is_none() && self.reader.encoded > encoded {
                return;
            }
            let Some(prepared) = self.prepare(index) else {
                return;
            };
            let needed = self.reserved() + prepared.bytes;
            if needed > self.cache_bytes && !self.running.is_empty() {
                self.waiting[index].prepared = Some(prepared);
                return;
            }
            if self.is_being_read(&prepared.prompt.ids) {
                self.waiting[index].prepared = Some(prepared);
                index += 1;
                continue;
            }
            if let Some(Waiting { mut listener, .. }) = self.waiting.remove(index) {
                listener.tell(Event::Started);
                self.begin(prepared, listener);
            }
        }
    }

    /// What a waiting request begins with. One that cannot be carried out has its error and waits no longer.
    fn prepare(&mut self, index: usize) -> Option<Prepared<'a>> {
        let one = &mut self.waiting[index];
        let prepared = one.prepared.take().map_or_else(
            || Prepared::new(self.pipeline, &mut self.reader, &one.request),
            Ok,
        );
        match prepared {
            Ok(prepared) => Some(prepared),
            Err(error) => {
                one.listener.tell(Event::Failed(error));
                self.waiting.remove(index);
                None
            }
        }
    }

    /// The most bytes that the running requests come to.
    fn reserved(&self) -> u64 {
        self.running.iter().map(|one| one.reserved).sum()
    }

    /// Whether a running request is about to have read much of what begins with `ids`.
    fn is_being_read(&self, ids: &[u64]) -> bool {
        let sequences = || self.running.iter().flat_map(Running::sequences);
        let reading = sequences().filter(|one| one.unread() > 0);
        let later = reading.map(|one| common(one.ids(), ids)).max();
        let later = later.unwrap_or(0);
        if later <= WORTH_WAITING {
            return false;
        }
        let read = sequences().map(|one| common(one.read_ids(), ids)).max();
        let read = read.unwrap_or(0).max(self.kept.longest(ids));
        later > read + WORTH_WAITING
    }

    fn begin(&mut self, prepared: Prepared<'a>, listener: Listener<'a>) {
        let Prepared {
            prompt,
            unconditional,
            bytes,
            reply,
        } = prepared;
        let left = self.cache_bytes.saturating_sub(self.reserved() + bytes);
        self.kept.shrink(left.min(KEPT));
        let (sequence, cached_tokens) = self.sequence(&prompt);
        let unconditional = unconditional.map(|prompt| (self.sequence(&prompt).0, prompt));
        let prompt_tokens = prompt.ids.len();
        self.statistics.prompt_tokens += prompt_tokens as u64;
        self.statistics.cached_tokens += cached_tokens as u64;
        self.running.push(Running {
            listener,
            sequence,
            unconditional: unconditional.map(|(sequence, prompt)| (sequence, prompt.ids.len())),
            reply,
            usage: Usage {
                prompt_tokens,
                cached_tokens,
                completion_tokens: 0,
            },
            reserved: bytes,
            ended: false,
        });
    }

    /// Begins the image or video that a conversation opened.
    pub(super) fn open(&mut self, index: usize, modality: &Modality) {
        let model = &self.checkpoint.model;
        let guided = self.running[index].reply.options.guided();
        let unconditional = guided.then(|| {
            let prompt = Prompt::text(modality.unconditional.clone());
            let following = modality.frames * model.image_tokens() - 1;
            let prompt = Beginning::new(self.pipeline, &mut self.reader, &prompt, following)?;
            Ok((self.sequence(&prompt).0, prompt.ids.len()))
        });
        match unconditional.transpose() {
            Ok(unconditional) => self.running[index].open(model, modality, unconditional),
            Err(error) => self.running[index].fail(error),
        }
    }

    /// A sequence that is to read a prompt, and how many of its positions have been read before.
    fn sequence(&mut self, prompt: &Beginning) -> (Sequence, usize) {
        let ids = &prompt.ids;
        // The last position is read again for its hidden state.
        let wanted = &ids[..ids.len() - 1];
        let capacity = ids.len() + 1;
        let running = self.running.iter().flat_map(Running::sequences);
        let (known, running) = running
            .map(|one| (common(one.read_ids(), wanted), Some(one)))
            .max_by_key(|(length, _)| *length)
            .unwrap_or_default();
        let (length, cache) = match (self.kept.copy(wanted, known, capacity), running) {
            (Some(kept), _) => kept,
            (None, Some(one)) if known > 0 => (known, one.copy(known, capacity)),
            _ => (0, self.checkpoint.model.llm.cache(1, capacity)),
        };
        let mut sequence = Sequence::new(cache, ids[..length].to_vec(), prompt.limit);
        let rest = ids.len() - length;
        let unread = prompt.embeds.clone().narrow(0, length, rest);
        sequence.push(ids[length..].iter().copied(), unread);
        (sequence, length)
    }

    /// Keeps what others may begin with of a request that has ended.
    pub(super) fn keep(&mut self, ended: Running) {
        if let Some((sequence, prompt)) = &ended.unconditional {
            self.keep_prefix(sequence, *prompt);
        }
        // A conversation may go on; nothing follows a picture.
        let length = if ended.reply.text.is_some() {
            ended.sequence.filled()
        } else {
            ended.usage.prompt_tokens
        };
        self.keep_prefix(&ended.sequence, length);
        let left = self.cache_bytes.saturating_sub(self.reserved());
        self.kept.shrink(left.min(KEPT));
    }

    /// Keeps the first `length` positions that a sequence has read, unless they are known.
    fn keep_prefix(&mut self, sequence: &Sequence, length: usize) {
        let length = length.min(sequence.filled());
        let ids = &sequence.read_ids()[..length];
        if self.kept.longest(ids) < length {
            self.kept.keep(ids.to_vec(), sequence.copy(length, length));
        }
    }
}
