//! Who trains together in `vila-u train`: threads of this process, or processes that MPI has started.

use std::{path::PathBuf, thread};

#[cfg(feature = "mpi")]
use vila_u::training::distributed::mpi::Mpi;
use vila_u::{
    Error, Result,
    burn::tensor::Device,
    device,
    training::{
        self, Progress, Start, Watch,
        distributed::{ProcessGroup, threads},
        recipe::Recipe,
    },
};

use crate::{STACK, console::Console};

/// Variables that the launchers of MPI set for each process.
const LAUNCHED: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"];

/// The ranks of a run.
pub enum Ranks {
    /// So many threads.
    Threads(usize),
    /// This process is one of them.
    #[cfg(feature = "mpi")]
    Mpi(Mpi),
}

impl Ranks {
    /// Those that MPI has started this process with, otherwise `count` threads.
    ///
    /// # Errors
    /// When MPI has started it and this build has no MPI: each of its processes would train alone.
    pub fn start(count: u16) -> Result<Self> {
        let launched = |name: &&&str| std::env::var_os(name).is_some();
        let Some(launched) = LAUNCHED.iter().find(launched) else {
            return Ok(Self::Threads(count.into()));
        };
        if count > 1 {
            return Err(Error::usage(format!(
                "--ranks is for one machine without MPI, which has started this process ({launched} is set): \
                 how many there are is said to its launcher, as in mpirun -n {count}"
            )));
        }
        #[cfg(feature = "mpi")]
        {
            Ok(Self::Mpi(Mpi::start()?))
        }
        #[cfg(not(feature = "mpi"))]
        {
            Err(Error::usage(format!(
                "MPI has started this process ({launched} is set), and this build has no MPI: build it with \
                 `--features mpi`"
            )))
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Threads(count) => *count,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.group().world_size(),
        }
    }

    /// How many of them are on this machine.
    pub fn here(&self) -> usize {
        match self {
            Self::Threads(count) => *count,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.group().local_size(),
        }
    }

    /// This process among others.
    pub fn processes(&self) -> ProcessGroup {
        match self {
            Self::Threads(_) => ProcessGroup::default(),
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.group().clone(),
        }
    }

    /// The names of the devices that this process trains on, one a rank.
    pub fn devices(&self, name: &str) -> Result<Vec<String>> {
        match self {
            Self::Threads(1) => Ok(vec![name.to_string()]),
            Self::Threads(count) => (0..*count)
                .map(|rank| device::of_rank(name, rank))
                .collect(),
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => Ok(vec![device::of_rank(name, mpi.group().local_rank())?]),
        }
    }

    /// What this process says in the end: rank 0 speaks for all.
    pub fn end(self, outcome: Result<()>) -> Result<()> {
        match self {
            Self::Threads(_) => outcome,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => end_processes(&mpi, outcome),
        }
    }
}

#[cfg(feature = "mpi")]
fn end_processes(mpi: &Mpi, outcome: Result<()>) -> Result<()> {
    /// How long rank 0 may take to say why.
    const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(4);
    let is_main = mpi.group().is_main();
    match outcome {
        // MPI cannot be left together any more.
        Err(error) if mpi.group().has_lost_a_rank() => {
            if is_main {
                crate::console::message(&format!("error: {error}"));
            } else {
                thread::sleep(LAST_WORDS);
            }
            mpi.abort()
        }
        Err(error) if is_main => Err(error),
        _ => Ok(()),
    }
}

/// Trains on `devices`, of several with a thread each, and says where the finished model lies. `progress` is that of
/// the first.
///
/// # Errors
/// The first's, which says whose they are.
pub fn run(
    devices: Vec<Device>,
    recipe: &Recipe,
    start: &Start,
    console: &Console,
    progress: impl FnMut(&Progress) + Send + 'static,
) -> Result<PathBuf> {
    if let [device] = &devices[..] {
        let train = || {
            let watch = Watch {
                progress: Box::new(progress),
                stop: console.stop_flag(),
            };
            training::run(recipe, device, start.clone(), watch)
        };
        // On a thread of the pool, as a parallel loop that starts elsewhere waits for one of them to wake up; but not on its
        // only one, which the dataloader's threads need as well.
        return match rayon::current_num_threads() {
            1 => train(),
            _ => rayon::scope(|_| train()),
        };
    }
    // Outside of the pool, whose threads must not wait for ranks.
    thread::scope(|scope| {
        let mut progress = Some(progress);
        let mut running = Vec::new();
        for (group, device) in threads(devices.len()).into_iter().zip(devices) {
            let progress = progress.take();
            let start = Start {
                process_group: group,
                ..start.clone()
            };
            let rank = move || {
                let watch = Watch {
                    progress: match progress {
                        Some(progress) => Box::new(progress),
                        None => Box::new(|_| ()),
                    },
                    stop: console.stop_flag(),
                };
                training::run(recipe, &device, start, watch)
            };
            let rank = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, rank);
            running.push(rank.map_err(|error| Error::failed(format!("starting a rank: {error}")))?);
        }
        let ended = running.into_iter().map(|rank| {
            let panicked = |_| Err(Error::failed("a rank stopped unexpectedly"));
            rank.join().unwrap_or_else(panicked)
        });
        // Whoever fails first, all of them fail.
        let mut ended = ended.collect::<Vec<_>>().into_iter();
        ended
            .next()
            .unwrap_or_else(|| Err(Error::usage("there is no rank")))
    })
}
