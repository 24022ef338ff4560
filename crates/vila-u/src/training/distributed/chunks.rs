//! Lists of numbers that are divided among ranks, in chunks.

use std::ops::Range;

use super::ProcessGroup;
use super::message::{self, Kind, Lists};
use crate::Result;

/// Numbers of a chunk; also fixes the order of sums over a list.
pub(crate) const CHUNK: usize = 1 << 16;
/// How many chunks are exchanged at a time.
const ROUND: usize = 256;

/// How a list is divided: its chunks go around the ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    /// Which rank begins, counted on without end.
    pub first: usize,
    pub ranks: usize,
}

impl Chunks {
    /// The chunks of a list that are a rank's.
    pub(crate) fn of(self, rank: usize, list: &[f32]) -> impl Iterator<Item = &[f32]> {
        list.chunks(CHUNK)
            .skip(self.skipped(rank))
            .step_by(self.ranks)
    }

    pub(crate) fn of_mut(self, rank: usize, list: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
        list.chunks_mut(CHUNK)
            .skip(self.skipped(rank))
            .step_by(self.ranks)
    }

    /// Where a rank's chunks of a list of this length are.
    pub(crate) fn ranges(self, rank: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
        let firsts = (0..length).step_by(CHUNK);
        let firsts = firsts.skip(self.skipped(rank)).step_by(self.ranks);
        firsts.map(move |first| first..length.min(first + CHUNK))
    }

    /// How many chunks come before the first of a rank.
    fn skipped(self, rank: usize) -> usize {
        (rank + self.ranks - self.first % self.ranks) % self.ranks
    }

    /// Parts of a list that are exchanged one after the other, and how these are divided.
    fn rounds(self, list: &mut [f32]) -> impl Iterator<Item = (Self, &mut [f32])> {
        let first = (self.first..).step_by(ROUND);
        let rounds = first.zip(list.chunks_mut(ROUND * CHUNK));
        rounds.map(move |(first, part)| (Self { first, ..self }, part))
    }
}

impl ProcessGroup {
    /// In this rank's chunks, makes every number the mean of those of all ranks, added up in their order. The
    /// other chunks are of no more use.
    pub(crate) fn reduce_scatter_mean(&self, list: &mut [f32], chunks: Chunks) -> Result<()> {
        if self.world_size() == 1 {
            return Ok(());
        }
        let share = 1.0 / self.world_size() as f32;
        for (chunks, list) in chunks.rounds(list) {
            let message = |rank| message::bytes(chunks.of(rank, list));
            let messages = (0..self.world_size()).map(message).collect();
            let received = self.exchange(Kind::Gradients, list.len() as u64, messages)?;
            let mut parts: Vec<_> = received.iter().map(|part| Lists(part)).collect();
            for chunk in chunks.of_mut(self.rank(), list) {
                for (rank, part) in parts.iter_mut().enumerate() {
                    match rank {
                        0 => part.read(chunk, |sum, value| *sum = value),
                        _ => part.read(chunk, |sum, value| *sum += value),
                    }
                }
                chunk.iter_mut().for_each(|sum| *sum *= share);
            }
        }
        Ok(())
    }

    /// Brings every chunk from its rank to all.
    pub(crate) fn all_gather_chunks(&self, list: &mut [f32], chunks: Chunks) -> Result<()> {
        if self.world_size() == 1 {
            return Ok(());
        }
        for (chunks, list) in chunks.rounds(list) {
            let own = message::bytes(chunks.of(self.rank(), list));
            let count = list.len() as u64;
            let received = self.exchange(Kind::Weights, count, vec![own; self.world_size()])?;
            take(&received, list, chunks);
        }
        Ok(())
    }

    /// The whole of a list on rank 0, of which each rank has its own chunks one after the other; empty on the others.
    pub(crate) fn gather_chunks(
        &self,
        own: &[f32],
        length: usize,
        chunks: Chunks,
    ) -> Result<Vec<f32>> {
        let mut messages = vec![Vec::new(); self.world_size()];
        messages[0] = message::bytes(std::iter::once(own));
        let received = self.exchange(Kind::Moments, length as u64, messages)?;
        if !self.is_main() {
            return Ok(Vec::new());
        }
        let mut list = vec![0.0; length];
        take(&received, &mut list, chunks);
        Ok(list)
    }
}

/// Puts the chunks that each rank has sent in their places.
fn take(received: &[Vec<u8>], list: &mut [f32], chunks: Chunks) {
    for (rank, part) in received.iter().enumerate() {
        let mut part = Lists(part);
        for chunk in chunks.of_mut(rank, list) {
            part.read(chunk, |number, value| *number = value);
        }
    }
}
