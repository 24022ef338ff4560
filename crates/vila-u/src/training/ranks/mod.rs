//! Data-parallel training: several processes, the ranks, train the same model on samples of their own.
//!
//! Rank 0 leads; the others are connected with it over TCP. What is summed goes to the leader, is added
//! up in the order of the ranks and comes back: all ranks go on with the same numbers, and a run with as
//! many ranks gives them again. Every rank takes the mean of the ranks' gradients, so ranks are to a step
//! what accumulation is: `gradient = mean over ranks of the mean over their batches`.
//!
//! What goes wrong on one rank is told to all, and each of them stops with it. The connections are neither
//! secret nor authenticated: they belong in a network of one's own.

mod peer;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use peer::{Hello, Peer, Told};

use super::recipe::Recipe;
use crate::{Error, Result};

/// How long ranks wait for each other at the start.
const JOIN: Duration = Duration::from_secs(300);

/// This process among all that train together.
#[derive(Debug, Default)]
pub struct Ranks {
    index: usize,
    /// Ranks besides this one.
    others: usize,
    links: Mutex<Links>,
}

/// The connections: of the leader to every other rank in order, of these to the leader.
#[derive(Debug, Default)]
struct Links {
    peers: Vec<Peer>,
    /// Why they are of no more use.
    down: Option<String>,
}

/// What tells a run from others: its recipe, and whether it is gone on with.
pub fn fingerprint(recipe: &Recipe, resume: bool) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (recipe.to_toml()?, resume).hash(&mut hasher);
    Ok(hasher.finish())
}

/// A number that differs where any weight does.
pub fn checksum<M: Module>(model: &M) -> u64 {
    struct Sum(DefaultHasher);
    impl ModuleVisitor for Sum {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            for value in param.val().into_data_as::<f32>().iter::<f32>() {
                self.0.write_u32(value.to_bits());
            }
        }
    }
    let mut sum = Sum(DefaultHasher::new());
    model.visit(&mut sum);
    sum.0.finish()
}

impl Ranks {
    /// Rank 0 of `ranks`: waits for the others at `listener`. `run` is the [`fingerprint`] that they all
    /// have to give. `wait` is asked again and again whether to wait on.
    ///
    /// # Errors
    /// When one of them does not come, or is to train something else; and those of `wait`.
    pub fn lead(
        listener: &TcpListener,
        ranks: usize,
        run: u64,
        mut wait: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let failed =
            |error: io::Error| Error::failed(format!("waiting for the other ranks: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        let mut peers: Vec<Option<Peer>> = (1..ranks).map(|_| None).collect();
        let start = Instant::now();
        while let Some(missing) = peers.iter().position(Option::is_none) {
            wait()?;
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if start.elapsed() > JOIN {
                        return Err(Error::failed(format!(
                            "rank {} of {ranks} has not come in {} s: start it with --rank {0} and the same --leader",
                            missing + 1,
                            JOIN.as_secs(),
                        )));
                    }
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            // Who does not speak as a rank is none.
            let Some((hello, mut peer)) = Peer::introduced(stream) else {
                continue;
            };
            let free = (1..ranks).contains(&hello.rank) && peers[hello.rank - 1].is_none();
            let refused = if hello.version != env!("CARGO_PKG_VERSION") {
                Some(format!(
                    "rank {} is of version {}, rank 0 of {}",
                    hello.rank,
                    hello.version,
                    env!("CARGO_PKG_VERSION")
                ))
            } else if hello.ranks != ranks {
                Some(format!(
                    "rank {} is one of {} ranks, rank 0 of {ranks}",
                    hello.rank, hello.ranks
                ))
            } else if hello.run != run {
                Some(format!(
                    "rank {} has another recipe than rank 0, or --resume differs",
                    hello.rank
                ))
            } else {
                (!free).then(|| format!("there are two of rank {}", hello.rank))
            };
            if let Some(reason) = refused {
                peer.farewell(&reason);
                return Err(Error::usage(reason));
            }
            let slot = hello.rank - 1;
            peers[slot] = Some(peer);
        }
        Ok(Self::connected(
            0,
            ranks,
            peers.into_iter().flatten().collect(),
        ))
    }

    /// Rank `rank` of `ranks`, not 0, with its leader at `address` (`HOST:PORT`). `run` as in
    /// [`Self::lead`].
    ///
    /// # Errors
    /// When there is no leader.
    pub fn join(address: &str, rank: usize, ranks: usize, run: u64) -> Result<Self> {
        let failed = |error: io::Error| Error::failed(format!("rank 0 at {address}: {error}"));
        let start = Instant::now();
        let stream = loop {
            let addresses: Vec<_> = address
                .to_socket_addrs()
                .map_err(|error| {
                    Error::usage(format!("--leader {address}: {error}: give HOST:PORT"))
                })?
                .collect();
            match TcpStream::connect(addresses.as_slice()) {
                Ok(stream) => break stream,
                // It may start later.
                Err(error) if start.elapsed() > JOIN => return Err(failed(error)),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        };
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").to_string(),
            rank,
            ranks,
            run,
        };
        let leader = Peer::leader(stream, &hello).map_err(Error::failed)?;
        Ok(Self::connected(rank, ranks, vec![leader]))
    }

    fn connected(index: usize, ranks: usize, peers: Vec<Peer>) -> Self {
        Self {
            index,
            others: ranks - 1,
            links: Mutex::new(Links { peers, down: None }),
        }
    }

    /// Which one this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many train together.
    pub fn count(&self) -> usize {
        self.others + 1
    }

    /// Whether it is this one that writes files, evaluates and reports.
    pub fn leads(&self) -> bool {
        self.index == 0
    }

    /// What every rank has to say, in their order.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, mine: T) -> Result<Vec<T>> {
        if self.others == 0 {
            return Ok(vec![mine]);
        }
        self.links().attempt(|peers| {
            // As text, so that the leader hands on what it need not understand.
            let own = serde_json::to_string(&mine).map_err(|error| error.to_string())?;
            let all: Vec<String> = match self.leads() {
                true => {
                    let mut all = vec![own];
                    for peer in peers.iter_mut() {
                        all.push(peer.receive_value()?);
                    }
                    for peer in peers {
                        peer.send_value(&all)?;
                    }
                    all
                }
                false => {
                    peers[0].send_value(&own)?;
                    peers[0].receive_value()?
                }
            };
            let read = |one: &String| serde_json::from_str(one).map_err(|error| error.to_string());
            match all.len() == self.count() {
                true => all.iter().map(read).collect(),
                false => Err(format!("{} ranks answered, of {}", all.len(), self.count())),
            }
        })
    }

    /// Waits until all ranks are here.
    pub fn meet(&self) -> Result<()> {
        self.gather(()).map(|_| ())
    }

    /// Whether it holds on any rank.
    pub fn any(&self, holds: bool) -> Result<bool> {
        Ok(self.gather(holds)?.contains(&true))
    }

    /// Errors when a number, of which `what` is the name, is not the same on all ranks.
    pub fn agree(&self, what: &str, number: impl FnOnce() -> u64) -> Result<()> {
        if self.others == 0 {
            return Ok(());
        }
        let numbers = self.gather(number())?;
        match numbers.iter().position(|number| *number != numbers[0]) {
            None => Ok(()),
            Some(rank) => Err(Error::failed(format!(
                "{what} of rank {rank} are not those of rank 0: they compute on different devices, or see \
                 different files; the last checkpoint is kept"
            ))),
        }
    }

    /// Whether a connection is gone, or a rank has told why it stops.
    pub fn lost(&self) -> bool {
        self.links().down.is_some()
    }

    /// Does something on the leader, and then on the others: these find what it left.
    pub fn leader_first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.leads() {
            let made = work()?;
            self.meet()?;
            return Ok(made);
        }
        self.meet()?;
        work()
    }

    /// Makes every number the mean of those of all ranks. The lists are equally long everywhere.
    pub fn mean(&self, lists: &mut [&mut Vec<f32>]) -> Result<()> {
        if self.others == 0 {
            return Ok(());
        }
        let share = 1.0 / self.count() as f32;
        self.links().attempt(|peers| {
            if !self.leads() {
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

    /// The rows of all ranks, in their order: `[n, width]` -> `[ranks * n, width]`. They are constants.
    ///
    /// Inside a forward pass nothing can be done about a connection that is gone: then a rank's own rows
    /// stand for those of the others, and the next call that can fail does.
    pub fn rows(&self, rows: Tensor<2>) -> Tensor<2> {
        if self.others == 0 {
            return rows;
        }
        let (device, [n, width]) = (rows.device(), rows.dims());
        let data = rows.into_data_as::<f32>();
        let own: Vec<f32> = data.iter().collect();
        let length = own.len();
        let all = self.links().attempt(|peers| {
            let mut all = vec![0.0; length * self.count()];
            let place = |rank: usize| rank * length..(rank + 1) * length;
            all[place(self.index)].copy_from_slice(&own);
            if !self.leads() {
                peers[0].send_floats(&own)?;
                peers[0].receive_floats(&mut all, |mine, sum| *mine = sum)?;
                return Ok(all);
            }
            for peer in peers.iter_mut() {
                let part = &mut all[place(peer.rank)];
                peer.receive_floats(part, |mine, other| *mine = other)?;
            }
            for peer in peers {
                peer.send_floats(&all)?;
            }
            Ok(all)
        });
        let all = all.unwrap_or_else(|_| own.repeat(self.count()));
        Tensor::from_data(TensorData::new(all, [self.count() * n, width]), &device)
    }

    /// The same of rows that are learned: a rank's own are no constants. Each rank then computes the whole
    /// loss; since gradients become means over the ranks, those of its own rows count as many times.
    pub fn learned_rows(&self, own: Tensor<2>) -> Tensor<2> {
        if self.others == 0 {
            return own;
        }
        let [n, _] = own.dims();
        let all = self.rows(own.clone().detach());
        let ranks = self.count();
        // Nothing, with a gradient.
        let learned = (own.clone() - own.detach()) * ranks as f64;
        let mut parts = all.chunk(ranks, 0);
        let place = &mut parts[self.index];
        debug_assert_eq!(place.dims()[0], n);
        *place = place.clone() + learned;
        Tensor::cat(parts, 0)
    }

    /// The codes of all ranks, in their order: `[n]` -> `[ranks * n]`, each below 2^24.
    pub fn codes(&self, codes: Tensor<1, Int>) -> Tensor<1, Int> {
        match self.others {
            0 => codes,
            _ => self
                .rows(codes.float().unsqueeze_dim(1))
                .squeeze_dim::<1>(1)
                .int(),
        }
    }

    /// Tells the other ranks why this one stops, unless they are why.
    pub fn fail(&self, reason: &str) {
        let mut links = self.links();
        let reason = match (&links.down, self.leads()) {
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

    use burn::tensor::Device;

    use super::*;

    /// What every rank returns, each on a thread of its own.
    fn together<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::scope(|scope| {
            let (work, listener, address) = (&work, &listener, &address);
            let start = |rank| {
                scope.spawn(move || {
                    work(match rank {
                        0 => Ranks::lead(listener, count, 7, || Ok(())).unwrap(),
                        rank => Ranks::join(address, rank, count, 7).unwrap(),
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
            let own = ranks.index() as f32;
            let mut one: Vec<f32> = (0..100_000).map(|n| own + (n as f32).sin()).collect();
            let mut two = vec![0.1 * own; 3];
            ranks
                .mean(&mut [&mut one, &mut Vec::new(), &mut two])
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
            let own = ranks.index();
            let all = ranks.gather((own, format!("rank {own}"))).unwrap();
            let any = ranks.any(own == 2).unwrap();
            let codes = Tensor::from_data([own as i64, 10 + own as i64], &device);
            let codes: Vec<i64> = ranks.codes(codes).into_data().iter().collect();
            let rows = Tensor::<2>::from_data([[own as f32]], &device).require_grad();
            let all_rows = ranks.learned_rows(rows.clone());
            let loss = (all_rows.clone() * Tensor::from_data([[1.0], [2.0], [3.0]], &device)).sum();
            let gradient = rows.grad(&loss.backward()).unwrap().into_scalar::<f32>();
            let values: Vec<f32> = all_rows.into_data().iter().collect();
            assert!(ranks.agree("the seeds", || 5).is_ok());
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
            if ranks.index() == 1 {
                ranks.fail("no pictures");
                return String::new();
            }
            let device = Device::flex();
            // Within a forward pass it goes on, and shows after it.
            let rows = ranks.rows(Tensor::from_data([[1.0_f32, 2.0]], &device));
            assert_eq!(rows.dims(), [3, 2]);
            let mut list = vec![0.0; 10];
            let error = ranks.mean(&mut [&mut list]).unwrap_err().to_string();
            ranks.fail(&error);
            error
        });
        assert_eq!(reasons, ["rank 1: no pictures", "", "rank 1: no pictures"]);
    }

    #[test]
    fn a_rank_that_is_gone_or_differs_is_named() {
        let reasons = together(2, |ranks| match ranks.index() {
            0 => ranks.gather(1).unwrap_err().to_string(),
            _ => String::new(),
        });
        assert!(reasons[0].starts_with("rank 1 is gone"), "{reasons:?}");
        let reasons = together(2, |ranks| {
            let error = ranks
                .agree("the weights", || ranks.index() as u64)
                .unwrap_err();
            error.to_string()
        });
        assert!(
            reasons.iter().all(|reason| reason.contains("rank 1")),
            "{reasons:?}"
        );
        let reasons = together(2, |ranks| {
            let mut list = vec![0.0; 2 + ranks.index()];
            let outcome = ranks.mean(&mut [&mut list]);
            let reason = outcome.unwrap_err().to_string();
            ranks.fail(&reason);
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
            let leader = scope.spawn(|| Ranks::lead(&listener, 2, 7, || Ok(())).map(|_| ()));
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let other = Ranks::join(&address, 1, 2, 8).unwrap();
            let told = other.meet().unwrap_err().to_string();
            assert!(told.contains("another recipe"), "{told}");
            drop(other);
            leader.join().unwrap().unwrap_err().to_string()
        });
        assert!(reason.contains("rank 1 has another recipe"), "{reason}");
        let stop = || Err(Error::Interrupted);
        assert!(matches!(
            Ranks::lead(&listener, 2, 7, stop),
            Err(Error::Interrupted)
        ));
    }

    #[test]
    fn one_rank_talks_to_nobody() {
        let ranks = Ranks::default();
        let mut list = vec![1.0, 2.0];
        ranks.mean(&mut [&mut list]).unwrap();
        assert_eq!((list, ranks.gather(3).unwrap()), (vec![1.0, 2.0], vec![3]));
        assert!(ranks.leads() && ranks.count() == 1);
    }
}
