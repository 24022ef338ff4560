//! ContentIds and values of prompts and conversations that were read before, so that another request which begins in the
//! same way need not read them again.

use super::sequence::ContentIds;
use crate::language::KvCache;

/// Each is looked at whenever a request begins.
const MAX_KEPT: usize = 256;

pub(super) struct PrefixCache {
    /// Those used longest ago first.
    kept: Vec<(ContentIds, KvCache)>,
    bytes: u64,
}

impl PrefixCache {
    pub(super) fn new() -> Self {
        Self {
            kept: Vec::new(),
            bytes: 0,
        }
    }

    /// Bytes of all that is kept.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of the beginning of `ids` is kept.
    pub(super) fn longest(&self, ids: &[u64]) -> usize {
        let lengths = self.kept.iter().map(|(kept, _)| common(kept, ids));
        lengths.max().unwrap_or(0)
    }

    /// The longest beginning of `ids` that is kept: its length, and a copy with room for `capacity` positions if it is
    /// longer than `known`.
    pub(super) fn copy(
        &mut self,
        ids: &[u64],
        known: usize,
        capacity: usize,
    ) -> Option<(usize, KvCache)> {
        let lengths = self.kept.iter().map(|(kept, _)| common(kept, ids));
        let (index, length) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        if length <= known {
            return None;
        }
        let used = self.kept.remove(index);
        let copy = used.1.copy_of(length, capacity.max(length));
        self.kept.push(used);
        Some((length, copy))
    }

    /// Keeps a cache that holds these positions, and forgets those that hold less.
    pub(super) fn keep(&mut self, ids: ContentIds, cache: KvCache) {
        self.kept.retain(|(kept, cache)| {
            let covered = ids.starts_with(kept);
            if covered {
                self.bytes -= cache.bytes();
            }
            !covered
        });
        self.bytes += cache.bytes();
        self.kept.push((ids, cache));
        if self.kept.len() > MAX_KEPT {
            self.forget_oldest();
        }
    }

    /// Forgets what was used longest ago until no more than `bytes` are kept.
    pub(super) fn shrink(&mut self, bytes: u64) {
        while self.bytes > bytes && !self.kept.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let (_, cache) = self.kept.remove(0);
        self.bytes -= cache.bytes();
    }
}

/// How many positions two sequences begin with alike.
pub(super) fn common(one: &[u64], other: &[u64]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}
