//! All ranks in one process, each on a thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Communicator, ProcessGroup};

/// The groups of `count` ranks of this process, in their order, to be given to a thread each.
///
/// ```
/// use vila_u::training::distributed::threads;
///
/// let sums: Vec<f32> = std::thread::scope(|scope| {
///     let ranks = threads(2).into_iter().map(|group| {
///         scope.spawn(move || {
///             let all = group.all_gather(group.rank() as f32);
///             all.map(|all| all.iter().sum::<f32>())
///         })
///     });
///     let ranks: Vec<_> = ranks.collect();
///     ranks.into_iter().filter_map(|rank| rank.join().ok()?.ok()).collect()
/// });
/// assert_eq!(sums, [1.0, 1.0]);
/// ```
pub fn threads(count: usize) -> Vec<ProcessGroup> {
    let mail = Arc::new(Mail {
        state: Mutex::new(State {
            queues: (0..count * count).map(|_| VecDeque::new()).collect(),
            ended: vec![false; count],
        }),
        changed: Condvar::new(),
    });
    let rank = |rank| Thread {
        rank,
        size: count,
        mail: mail.clone(),
    };
    (0..count)
        .map(|number| ProcessGroup::new(rank(number)))
        .collect()
}

struct Thread {
    rank: usize,
    size: usize,
    mail: Arc<Mail>,
}

struct Mail {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Messages on their way: those of rank `from` to rank `to` at `from * size + to`.
    queues: Vec<VecDeque<Vec<u8>>>,
    /// Ranks that will send no more.
    ended: Vec<bool>,
}

impl Mail {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn local_size(&self) -> usize {
        self.size
    }

    fn all_to_all(&self, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
        let mut state = self.mail.state();
        for (to, message) in messages.into_iter().enumerate() {
            state.queues[self.rank * self.size + to].push_back(message);
        }
        self.mail.changed.notify_all();
        let mut received = Vec::with_capacity(self.size);
        for from in 0..self.size {
            received.push(loop {
                if let Some(message) = state.queues[from * self.size + self.rank].pop_front() {
                    break message;
                }
                if state.ended[from] {
                    return Err(format!("rank {from} is gone: it has ended"));
                }
                let waited = self.mail.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            });
        }
        Ok(received)
    }
}

/// However its thread ends, nobody waits for it.
impl Drop for Thread {
    fn drop(&mut self) {
        self.mail.state().ended[self.rank] = true;
        self.mail.changed.notify_all();
    }
}
