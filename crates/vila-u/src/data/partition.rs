//! How the workers of all ranks divide the data among themselves.

use serde::{Deserialize, Serialize};

/// What one worker reads of a source, which all workers of all ranks divide among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partition {
    pub rank: usize,
    pub ranks: usize,
    /// Of the rank's.
    pub worker: usize,
    pub workers: usize,
    /// Samples of a rank that follow each other.
    pub batch: usize,
}

impl Partition {
    /// All of the source.
    pub(crate) const WHOLE: Self = Self {
        rank: 0,
        ranks: 1,
        worker: 0,
        workers: 1,
        batch: 1,
    };

    pub(super) fn index(self) -> usize {
        self.rank * self.workers + self.worker
    }

    pub(super) fn count(self) -> usize {
        self.ranks * self.workers
    }

    /// The number among the samples of all ranks of the rank's own sample `n`: of those of a step's batches, the
    /// first `batch` are rank 0's, and so on.
    pub(crate) fn global(self, n: u64) -> u64 {
        let (batch, rank, ranks) = (self.batch as u64, self.rank as u64, self.ranks as u64);
        (n / batch * ranks + rank) * batch + n % batch
    }

    /// Whether record `number` of a shard that is divided is this worker's: that which has the number of a sample
    /// of its own where there is one source.
    pub(super) fn takes(self, number: u64) -> bool {
        let (batch, ranks) = (self.batch as u64, self.ranks as u64);
        let own = number / batch / ranks * batch + number % batch;
        number / batch % ranks == self.rank as u64
            && own % self.workers as u64 == self.worker as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_divide_the_batches_of_one_and_their_workers_the_samples() {
        let part = |rank, ranks, worker| Partition {
            rank,
            ranks,
            worker,
            workers: 2,
            batch: 3,
        };
        let numbers = |rank, ranks| -> Vec<u64> {
            let part = part(rank, ranks, 0);
            (0..6).map(|n| part.global(n)).collect()
        };
        assert_eq!(numbers(0, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(numbers(0, 2), [0, 1, 2, 6, 7, 8]);
        assert_eq!(numbers(1, 2), [3, 4, 5, 9, 10, 11]);
        for (n, rank) in (0..12).flat_map(|n| [(n, 0), (n, 1)]) {
            let number = part(rank, 2, 0).global(n);
            for (other, worker) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let own = other == rank && worker as u64 == n % 2;
                assert_eq!(
                    part(other, 2, worker).takes(number),
                    own,
                    "{n} of rank {rank}"
                );
            }
        }
    }
}
