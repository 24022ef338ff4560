//! How the ranks find each other, and that they are to train the same thing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::ProcessGroup;
use super::peer::{Hello, Peer};
use crate::training::recipe::Recipe;
use crate::{Error, Result};

/// How long ranks wait for each other at the start.
const JOIN: Duration = Duration::from_secs(300);

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

impl ProcessGroup {
    /// Rank 0 of `ranks` ranks: waits for the others at `listener`. `run` is the [`fingerprint`] that they all
    /// have to give. `wait` is asked again and again whether to wait on.
    ///
    /// # Errors
    /// When one of them does not come, or is to train something else; and those of `wait`.
    pub fn host(
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

    /// Rank `rank` of `ranks` ranks, not 0, with rank 0 at `address` (`HOST:PORT`). `run` as in
    /// [`Self::host`].
    ///
    /// # Errors
    /// When there is no rank 0.
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
        let leader = Peer::join(stream, &hello).map_err(Error::failed)?;
        Ok(Self::connected(rank, ranks, vec![leader]))
    }
}
