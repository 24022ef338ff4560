//! Data-parallel training: the processes of a group, its ranks, train the same model on samples of their own.
//!
//! The others are connected with rank 0 over TCP. What is reduced goes to rank 0, is added up in the order of
//! the ranks and comes back: all ranks go on with the same numbers, and a run with as many ranks gives them
//! again. Every rank takes the mean of the ranks' gradients, so ranks are to a step what gradient accumulation
//! is: `gradient = mean over ranks of the mean over their batches`.
//!
//! What goes wrong on one rank is told to all, and each of them stops with it. The connections are neither
//! secret nor authenticated: they belong in a network of one's own.

mod peer;
mod rendezvous;
mod tensors;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};
use peer::{Peer, Told};
pub use rendezvous::{checksum, fingerprint};

/// This process among all that train together.
#[derive(Debug)]
pub struct ProcessGroup {
    rank: usize,
    world_size: usize,
    links: Mutex<Links>,
}

/// A process that trains alone.
impl Default for ProcessGroup {
    fn default() -> Self {
        Self::connected(0, 1, Vec::new())
    }
}

/// The connections: of rank 0 to every other rank in order, of these to rank 0.
#[derive(Debug, Default)]
struct Links {
    peers: Vec<Peer>,
    /// Why they are of no more use.
    down: Option<String>,
}

impl ProcessGroup {
    fn connected(rank: usize, world_size: usize, peers: Vec<Peer>) -> Self {
        Self {
            rank,
            world_size,
            links: Mutex::new(Links { peers, down: None }),
        }
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes train together.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Whether this is rank 0, which writes files, evaluates and reports.
    pub fn is_main(&self) -> bool {
        self.rank == 0
    }

    /// The values of all ranks, in their order.
    pub fn all_gather<T: Serialize + DeserializeOwned>(&self, mine: T) -> Result<Vec<T>> {
        if self.world_size == 1 {
            return Ok(vec![mine]);
        }
        self.links().attempt(|peers| {
            // As text, so that rank 0 hands on what it need not parse.
            let own = serde_json::to_string(&mine).map_err(|error| error.to_string())?;
            let all: Vec<String> = if self.is_main() {
                let mut all = vec![own];
                for peer in peers.iter_mut() {
                    all.push(peer.receive_value()?);
                }
                for peer in peers {
                    peer.send_value(&all)?;
                }
                all
            } else {
                peers[0].send_value(&own)?;
                peers[0].receive_value()?
            };
            if all.len() != self.world_size {
                let answered = all.len();
                return Err(format!("{answered} ranks answered, of {}", self.world_size));
            }
            let read = |one: &String| serde_json::from_str(one).map_err(|error| error.to_string());
            all.iter().map(read).collect()
        })
    }

    /// Waits until all ranks have come here.
    pub fn barrier(&self) -> Result<()> {
        self.all_gather(()).map(|_| ())
    }

    /// Whether it holds on any rank.
    pub fn any(&self, holds: bool) -> Result<bool> {
        Ok(self.all_gather(holds)?.contains(&true))
    }

    /// Errors when a number, of which `what` is the name, is not the same on all ranks.
    pub fn check_equal(&self, what: &str, number: impl FnOnce() -> u64) -> Result<()> {
        if self.world_size == 1 {
            return Ok(());
        }
        let numbers = self.all_gather(number())?;
        match numbers.iter().position(|number| *number != numbers[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::failed(format!(
                "{what} of rank {rank} are not those of rank 0: they compute on different devices, or see \
                 different files; the last checkpoint is kept"
            ))),
        }
    }

    /// Whether a connection is gone, or a rank has told why it stops.
    pub fn is_broken(&self) -> bool {
        self.links().down.is_some()
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

    /// Makes every number the mean of those of all ranks. The lists are equally long on all of them.
    pub fn all_reduce_mean(&self, lists: &mut [&mut Vec<f32>]) -> Result<()> {
        if self.world_size == 1 {
            return Ok(());
        }
        let share = 1.0 / self.world_size() as f32;
        self.links().attempt(|peers| {
            if !self.is_main() {
                for list in lists.iter() {
                    peers[0].send_floats(list)?;
                }
                for list in lists.iter_mut() {
                    peers[0].receive_floats(list, |mine, sum| *mine = sum)?;
                }
                return Ok(());
            }
            for peer in peers.iter_mut() {
                for list in lists.iter_mut() {
                    peer.receive_floats(list, |sum, other| *sum += other)?;
                }
            }
            for list in lists.iter_mut() {
                list.iter_mut().for_each(|sum| *sum *= share);
            }
            // To all of them at once: each waits for its own only.
            let lists: Vec<&[f32]> = lists.iter().map(|list| list.as_slice()).collect();
            peers
                .par_iter_mut()
                .try_for_each(|peer| lists.iter().try_for_each(|list| peer.send_floats(list)))
        })
    }

    /// Tells the other ranks why this one stops, unless they are why.
    pub fn abort(&self, reason: &str) {
        let mut links = self.links();
        let reason = match (&links.down, self.is_main()) {
            (Some(_), false) => return,
            (Some(down), true) => down.clone(),
            (None, _) => reason.to_string(),
        };
        links.down.get_or_insert(reason.clone());
        links
            .peers
            .iter_mut()
            .for_each(|peer| peer.farewell(&reason));
        links.peers.clear();
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    /// Nothing more is tried on connections that have failed once.
    fn attempt<T>(&mut self, talk: impl FnOnce(&mut Vec<Peer>) -> Told<T>) -> Result<T> {
        let outcome = match &self.down {
            Some(reason) => Err(reason.clone()),
            None => talk(&mut self.peers),
        };
        outcome.map_err(|reason| {
            self.down = Some(reason.clone());
            Error::failed(reason)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use burn::tensor::{Device, Tensor};

    use super::*;

    /// What every rank returns, each on a thread of its own.
    fn together<T: Send>(count: usize, work: impl Fn(ProcessGroup) -> T + Sync) -> Vec<T> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::scope(|scope| {
            let (work, listener, address) = (&work, &listener, &address);
            let start = |rank| {
                scope.spawn(move || {
                    work(match rank {
                        0 => ProcessGroup::host(listener, count, 7, || Ok(())).unwrap(),
                        rank => ProcessGroup::join(address, rank, count, 7).unwrap(),
                    })
                })
            };
            let running: Vec<_> = (0..count).map(start).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    #[test]
    fn numbers_become_their_means_in_the_same_way_everywhere() {
        let means = together(3, |ranks| {
            let own = ranks.rank() as f32;
            let mut one: Vec<f32> = (0..100_000).map(|n| own + (n as f32).sin()).collect();
            let mut two = vec![0.1 * own; 3];
            ranks
                .all_reduce_mean(&mut [&mut one, &mut Vec::new(), &mut two])
                .unwrap();
            (one, two)
        });
        assert!(means[0] == means[1] && means[1] == means[2]);
        assert!((means[0].1[0] - 0.1).abs() < 1e-6);
        assert!((means[0].0[50_000] - (1.0 + 50_000_f32.sin())).abs() < 1e-5);
    }

    #[test]
    fn values_and_rows_come_in_the_order_of_the_ranks() {
        let device = Device::flex().autodiff();
        let seen = together(3, |ranks| {
            let own = ranks.rank();
            let all = ranks.all_gather((own, format!("rank {own}"))).unwrap();
            let any = ranks.any(own == 2).unwrap();
            let codes = Tensor::from_data([own as i64, 10 + own as i64], &device);
            let codes: Vec<i64> = ranks.all_gather_codes(codes).into_data().iter().collect();
            let rows = Tensor::<2>::from_data([[own as f32]], &device).require_grad();
            let all_rows = ranks.all_gather_rows_with_grad(rows.clone());
            let loss = (all_rows.clone() * Tensor::from_data([[1.0], [2.0], [3.0]], &device)).sum();
            let gradient = rows.grad(&loss.backward()).unwrap().into_scalar::<f32>();
            let values: Vec<f32> = all_rows.into_data().iter().collect();
            assert!(ranks.check_equal("the seeds", || 5).is_ok());
            (all[2].1.clone(), any, codes, values, gradient)
        });
        for (own, (name, any, codes, values, gradient)) in seen.into_iter().enumerate() {
            assert_eq!((name.as_str(), any), ("rank 2", true));
            assert_eq!(codes, [0, 10, 1, 11, 2, 12]);
            assert_eq!(values, [0.0, 1.0, 2.0]);
            // Three times, so that the mean over ranks is the whole.
            assert_eq!(gradient, 3.0 * (own as f32 + 1.0));
        }
    }

    #[test]
    fn what_stops_one_stops_all_with_its_reason() {
        let reasons = together(3, |ranks| {
            if ranks.rank() == 1 {
                ranks.abort("no pictures");
                return String::new();
            }
            let device = Device::flex();
            // Within a forward pass it goes on, and shows after it.
            let rows = ranks.all_gather_rows(Tensor::from_data([[1.0_f32, 2.0]], &device));
            assert_eq!(rows.dims(), [3, 2]);
            let mut list = vec![0.0; 10];
            let error = ranks
                .all_reduce_mean(&mut [&mut list])
                .unwrap_err()
                .to_string();
            ranks.abort(&error);
            error
        });
        assert_eq!(reasons, ["rank 1: no pictures", "", "rank 1: no pictures"]);
    }

    #[test]
    fn a_rank_that_is_gone_or_differs_is_named() {
        let reasons = together(2, |ranks| match ranks.rank() {
            0 => ranks.all_gather(1).unwrap_err().to_string(),
            _ => String::new(),
        });
        assert!(reasons[0].starts_with("rank 1 is gone"), "{reasons:?}");
        let reasons = together(2, |ranks| {
            let error = ranks
                .check_equal("the weights", || ranks.rank() as u64)
                .unwrap_err();
            error.to_string()
        });
        assert!(
            reasons.iter().all(|reason| reason.contains("rank 1")),
            "{reasons:?}"
        );
        let reasons = together(2, |ranks| {
            let mut list = vec![0.0; 2 + ranks.rank()];
            let outcome = ranks.all_reduce_mean(&mut [&mut list]);
            let reason = outcome.unwrap_err().to_string();
            ranks.abort(&reason);
            reason
        });
        assert!(
            reasons[0].contains("3 numbers where here are 2"),
            "{reasons:?}"
        );
        assert_eq!(reasons[0], reasons[1]);
    }

    #[test]
    fn strangers_are_left_out_and_others_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let reason = thread::scope(|scope| {
            let leader = scope.spawn(|| ProcessGroup::host(&listener, 2, 7, || Ok(())).map(|_| ()));
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let other = ProcessGroup::join(&address, 1, 2, 8).unwrap();
            let told = other.barrier().unwrap_err().to_string();
            assert!(told.contains("another recipe"), "{told}");
            drop(other);
            leader.join().unwrap().unwrap_err().to_string()
        });
        assert!(reason.contains("rank 1 has another recipe"), "{reason}");
        let stop = || Err(Error::Interrupted);
        assert!(matches!(
            ProcessGroup::host(&listener, 2, 7, stop),
            Err(Error::Interrupted)
        ));
    }

    #[test]
    fn one_rank_talks_to_nobody() {
        let ranks = ProcessGroup::default();
        let mut list = vec![1.0, 2.0];
        ranks.all_reduce_mean(&mut [&mut list]).unwrap();
        assert_eq!(
            (list, ranks.all_gather(3).unwrap()),
            (vec![1.0, 2.0], vec![3])
        );
        assert!(ranks.is_main() && ranks.world_size() == 1);
    }
}
