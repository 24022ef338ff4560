//! One sequence of the language model: what it has read, and what it is to read next.

use burn::tensor::Tensor;

use crate::language::{KvCache, Llama};

/// Positions by which the memory of a sequence grows at least.
const GROWTH: usize = 128;

/// A number for each position that says what stands there: the same token or the same part of the same picture.
pub(super) type ContentIds = Vec<u64>;

pub(super) struct Sequence {
    cache: KvCache,
    /// Of every position, read or not.
    ids: ContentIds,
    /// Embeddings `[positions, hidden]` that are to be read.
    unread: Vec<Tensor<2>>,
    /// The hidden state `[1, hidden]` after the last position, once nothing is unread.
    pub hidden: Option<Tensor<2>>,
    /// The most positions that it may come to.
    limit: usize,
}

impl Sequence {
    /// A sequence that begins with what is in `cache`, of which `ids` are the positions.
    pub(super) fn new(cache: KvCache, ids: ContentIds, limit: usize) -> Self {
        Self {
            cache,
            ids,
            unread: Vec::new(),
            hidden: None,
            limit,
        }
    }

    /// Puts `embeds`, `[positions, hidden]`, behind what is to be read; `ids` has one number for each of them.
    pub(super) fn push(&mut self, ids: impl IntoIterator<Item = u64>, embeds: Tensor<2>) {
        self.ids.extend(ids);
        self.unread.push(embeds);
        self.hidden = None;
    }

    /// Positions that are to be read.
    pub(super) fn unread(&self) -> usize {
        self.unread.iter().map(|embeds| embeds.dims()[0]).sum()
    }

    /// Positions that have been read.
    pub(super) fn filled(&self) -> usize {
        self.cache.filled()
    }

    /// What has been read.
    pub(super) fn read_ids(&self) -> &[u64] {
        &self.ids[..self.cache.filled()]
    }

    /// What has been and what will be read, as far as that is known.
    pub(super) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Bytes of its keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// A copy of the first `length` positions of its cache.
    pub(super) fn copy(&self, length: usize, capacity: usize) -> KvCache {
        self.cache.copy_of(length, capacity)
    }

    /// The next embeddings to read, at most `most` positions of them, with the memory for them made.
    fn take(&mut self, most: usize) -> Tensor<2> {
        let mut taken = Vec::new();
        let mut count = 0;
        while count < most && !self.unread.is_empty() {
            let next = self.unread.remove(0);
            let [positions, _] = next.dims();
            let part = positions.min(most - count);
            if part < positions {
                let rest = next.clone().narrow(0, part, positions - part);
                self.unread.insert(0, rest);
                taken.push(next.narrow(0, 0, part));
            } else {
                taken.push(next);
            }
            count += part;
        }
        let needed = self.cache.filled() + count;
        if needed > self.cache.capacity() {
            let capacity = (2 * self.cache.capacity()).min(self.limit);
            let capacity = capacity.max(needed.next_multiple_of(GROWTH).min(self.limit));
            self.cache = self
                .cache
                .copy_of(self.cache.filled(), capacity.max(needed));
        }
        match taken.len() {
            1 => taken.swap_remove(0),
            _ => Tensor::cat(taken, 0),
        }
    }
}

/// Lets each sequence read what it has not: all of them a position, and those that have more (a prompt) as many as
/// `budget` allows in all, the shortest first.
pub(super) fn read<'s>(
    llm: &Llama,
    sequences: impl Iterator<Item = &'s mut Sequence>,
    mut budget: usize,
) {
    let sequences = sequences.filter(|sequence| !sequence.unread.is_empty());
    // Those of one position first: attention takes neighbours of that kind together.
    let (single, mut longer): (Vec<_>, Vec<_>) = sequences.partition(|one| one.unread() == 1);
    longer.sort_by_key(|one| one.unread());
    let mut reading = Vec::new();
    let mut embeds = Vec::new();
    for sequence in single.into_iter().chain(longer) {
        let most = sequence.unread().min(budget.max(1));
        let next = sequence.take(most);
        if most > 1 {
            budget = budget.saturating_sub(most);
        }
        reading.push((sequence, next.dims()[0]));
        embeds.push(next);
    }
    if reading.is_empty() {
        return;
    }
    let mut parts: Vec<_> = reading
        .iter_mut()
        .map(|(sequence, count)| (&mut sequence.cache, *count))
        .collect();
    let hidden = llm.forward_sequences(Tensor::cat(embeds, 0), &mut parts);
    let mut end = 0;
    for (sequence, count) in reading {
        end += count;
        if sequence.unread.is_empty() {
            sequence.hidden = Some(hidden.clone().narrow(0, end - 1, 1));
        }
    }
}
