//! Data-parallel training: ranks train the same model on samples of their own.
//!
//! Ranks are threads of one process ([`threads`]) or, with the cargo feature `mpi`, the processes that an MPI
//! launcher started, on any number of machines. Gradients are divided among the ranks: each gets its part from all
//! of them, adds it up in their order, updates its part of the weights and sends these to all. A rank sends and receives
//! about twice the gradients, however many ranks there are; all go on with the same numbers, and those of as many ranks
//! are the same bits on every engine. Every rank takes the mean of the ranks' gradients, so ranks are to a step what gradient
//! accumulation is: `gradient = mean over ranks of the mean over their batches`.
//!
//! What goes wrong on one rank is told to all at their next exchange, and each of them stops with it.

mod agreement;
mod chunks;
mod communicator;
mod message;
#[cfg(feature = "mpi")]
pub mod mpi;
mod tensors;
mod threads;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};
pub(crate) use agreement::checksum;
pub(crate) use chunks::{CHUNK, Chunks};
pub use communicator::Communicator;
use message::{Kind, Trailer};
pub use threads::threads;

/// A rank among all that train together.
#[derive(Clone)]
pub struct ProcessGroup {
    communicator: Arc<dyn Communicator>,
    exchanges: Arc<Mutex<Exchanges>>,
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.world_size())
    }
}

/// A rank that trains alone.
impl Default for ProcessGroup {
    fn default() -> Self {
        Self::new(communicator::Alone)
    }
}

#[derive(Default)]
struct Exchanges {
    /// How many there were.
    done: u64,
    /// Why there can be no more.
    down: Option<String>,
    /// Whether that is because a rank is gone.
    lost: bool,
}

impl ProcessGroup {
    /// The ranks that an engine has connected.
    pub fn new(communicator: impl Communicator + 'static) -> Self {
        Self {
            communicator: Arc::new(communicator),
            exchanges: Arc::default(),
        }
    }

    /// This rank's number, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.rank()
    }

    /// How many ranks train together.
    pub fn world_size(&self) -> usize {
        self.communicator.size()
    }

    /// This rank's number among those of its machine.
    pub fn local_rank(&self) -> usize {
        self.communicator.local_rank()
    }

    /// How many ranks are on its machine.
    pub fn local_size(&self) -> usize {
        self.communicator.local_size()
    }

    /// Whether this is rank 0, which writes files, evaluates and reports.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// The values of all ranks, in their order.
    pub fn all_gather<T: Serialize + DeserializeOwned>(&self, mine: T) -> Result<Vec<T>> {
        if self.world_size() == 1 {
            return Ok(vec![mine]);
        }
        let failed = |error: serde_json::Error| Error::failed(error.to_string());
        let json = serde_json::to_vec(&mine).map_err(failed)?;
        let all = self.exchange(Kind::Value, 0, vec![json; self.world_size()])?;
        let read = |json: &Vec<u8>| serde_json::from_slice(json).map_err(failed);
        all.iter().map(read).collect()
    }

    /// Waits until all ranks have come here.
    pub fn barrier(&self) -> Result<()> {
        self.all_gather(()).map(|_| ())
    }

    /// Whether it holds on any rank.
    pub fn any(&self, holds: bool) -> Result<bool> {
        Ok(self.all_gather(holds)?.contains(&true))
    }

    /// Why ranks can exchange nothing any more: one is gone, or has told why it stops.
    pub fn failure(&self) -> Option<Error> {
        self.exchanges().down.as_ref().map(Error::failed)
    }

    /// Whether a rank is gone without a word: the others can then not be told anything.
    pub fn has_lost_a_rank(&self) -> bool {
        self.exchanges().lost
    }

    /// Runs `work` on rank 0, then on the others, which find what it left.
    pub fn main_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_main() {
            let made = work()?;
            self.barrier()?;
            return Ok(made);
        }
        self.barrier()?;
        work()
    }

    /// Tells the other ranks why this one stops, unless they know: once all of them have come to an exchange.
    pub fn abort(&self, reason: &str) {
        let messages = vec![reason.as_bytes().to_vec(); self.world_size()];
        let _ = self.exchange(Kind::Failure, 0, messages);
    }

    /// Sends each rank its message and returns those of all ranks. All have to do the same, and see whether
    /// they do: so all go on, or none.
    fn exchange(&self, kind: Kind, count: u64, mut messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let mut exchanges = self.exchanges();
        if let Some(reason) = &exchanges.down {
            return Err(Error::failed(reason));
        }
        let trailer = Trailer {
            kind,
            exchange: exchanges.done,
            count,
        };
        messages.iter_mut().for_each(|one| trailer.append(one));
        exchanges.done += 1;
        let received = self.communicator.all_to_all(messages);
        exchanges.lost = received.is_err();
        received.and_then(sorted).map_err(|reason| {
            exchanges.down = Some(reason.clone());
            Error::failed(reason)
        })
    }

    fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages without their trailers, which have to be the same.
fn sorted(mut messages: Vec<Vec<u8>>) -> std::result::Result<Vec<Vec<u8>>, String> {
    let trailers: Vec<_> = messages.iter_mut().map(Trailer::take).collect();
    for (rank, trailer) in trailers.iter().enumerate() {
        match trailer {
            None => return Err(format!("rank {rank} has sent no message of this program")),
            Some(trailer) if trailer.kind == Kind::Failure => {
                let reason = String::from_utf8_lossy(&messages[rank]);
                return Err(match rank {
                    0 => reason.into_owned(),
                    _ => format!("rank {rank}: {reason}"),
                });
            }
            Some(_) => (),
        }
    }
    let does = |rank: usize| trailers[rank].map_or(String::new(), Trailer::describe);
    match trailers.iter().position(|other| *other != trailers[0]) {
        None => Ok(messages),
        Some(rank) => Err(format!(
            "rank {rank} is at another place of the run than rank 0: it exchanges {}, rank 0 {}",
            does(rank),
            does(0)
        )),
    }
}

#[cfg(test)]
mod tests;
