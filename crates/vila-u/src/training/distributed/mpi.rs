//! Ranks are the processes that an MPI launcher has started (`mpirun`, `srun --mpi=pmix`, an MPIJob).
//!
//! The binding is `ferrompi`: its calls return errors, its communicator may be used from any thread, and it builds with a C
//! compiler alone. rsmpi (`mpi`) needs libclang, ends the process on an error of MPI and panics where a request is dropped
//! unfinished, as it is when a rank dies. No other file knows which of them it is.
//!
//! Messages go from rank to rank without blocking: an exchange that waits looks now and then whether the processes of its
//! own machine are still there, and can say which rank is missing. MPI's own collectives cannot, and add up in
//! another order.

use std::fs;
use std::path::Path;
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ferrompi::{Communicator as World, Request, ThreadLevel};

use super::{Communicator, ProcessGroup};
use crate::Error;

const TAG: i32 = 1;
/// How often to look for processes that have died.
const LOOK: Duration = Duration::from_millis(50);
/// Naps while there is nothing to receive, from the shortest to the longest: others compute on the same cores.
const NAPS: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// MPI while it is used; to be dropped where it was started, after its ranks have ended together.
pub struct Mpi {
    session: ferrompi::Mpi,
    group: ProcessGroup,
}

impl Mpi {
    /// Connects this process with the others that were started with it.
    pub fn start() -> crate::Result<Self> {
        // Calls come from one thread at a time.
        let session = ferrompi::Mpi::init_thread(ThreadLevel::Serialized).map_err(failed)?;
        if session.thread_level() < ThreadLevel::Serialized {
            return Err(Error::failed(
                "this MPI does not let threads take turns: it needs MPI_THREAD_SERIALIZED",
            ));
        }
        let world = session.world();
        let node = world.split_shared().map_err(failed)?;
        let mut process = Process {
            rank: world.rank() as usize,
            size: world.size() as usize,
            local_rank: node.rank() as usize,
            local_size: node.size() as usize,
            world,
            pids: vec![None; session.world().size() as usize],
        };
        process.learn_pids().map_err(Error::failed)?;
        Ok(Self {
            group: ProcessGroup::new(process),
            session,
        })
    }

    /// The processes as ranks.
    pub fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// Ends all processes of the job, where they cannot end together because one of them is gone.
    pub fn abort(&self) -> ! {
        self.session.world().abort(1)
    }
}

fn failed(error: ferrompi::Error) -> Error {
    Error::failed(format!("MPI: {error}"))
}

struct Process {
    world: World,
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    /// The processes of the ranks that this one can see.
    pids: Vec<Option<u32>>,
}

impl Process {
    /// Which ranks can be looked at: those in the same namespace of processes, on the same machine.
    fn learn_pids(&mut self) -> Result<(), String> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let place = format!(
            "{} {}",
            read("/proc/sys/kernel/random/boot_id"),
            space.display()
        );
        let own = format!("{} {place}", process::id()).into_bytes();
        let all = self.all_to_all(vec![own; self.size])?;
        self.pids = (all.iter())
            .map(|one| {
                let (pid, there) = std::str::from_utf8(one).ok()?.split_once(' ')?;
                let pid = pid.parse().ok()?;
                (there == place && is_there(pid)).then_some(pid)
            })
            .collect();
        Ok(())
    }

    /// Errors when the process of a rank that is waited for is gone.
    fn look(&self, mut awaited: impl Iterator<Item = usize>) -> Result<(), String> {
        let gone = |rank: &usize| self.pids[*rank].is_some_and(|pid| !is_there(pid));
        match awaited.find(gone) {
            None => Ok(()),
            Some(rank) => Err(format!("rank {rank} is gone: its process has ended")),
        }
    }

    /// The next message of a rank, if it has come.
    fn receive(&self, from: usize) -> ferrompi::Result<Option<Vec<u8>>> {
        let Some((message, status)) = self.world.improbe::<u8>(from as i32, TAG)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; status.count.unwrap_or_default()];
        message.mrecv(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Whether there is such a process. Where a system does not show its processes, all are taken to be there.
fn is_there(pid: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

impl Communicator for Process {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn local_size(&self) -> usize {
        self.local_size
    }

    fn all_to_all(&self, mut messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
        let mut received: Vec<Option<Vec<u8>>> = vec![None; self.size];
        received[self.rank] = messages.get_mut(self.rank).map(std::mem::take);
        let mut lost = Ok(());
        let exchanged = ferrompi::scope(|scope| {
            // Each begins with the rank after its own, so that not all send to the same one.
            let others = (1..self.size).map(|step| (self.rank + step) % self.size);
            let mut sending: Vec<(usize, Request)> = others
                .clone()
                .map(|to| Ok((to, self.world.isend(scope, &messages[to], to as i32, TAG)?)))
                .collect::<ferrompi::Result<_>>()?;
            let mut awaited: Vec<usize> = others.collect();
            let (mut nap, mut looked) = (NAPS[0], Instant::now());
            while !(awaited.is_empty() && sending.is_empty()) {
                let before = awaited.len() + sending.len();
                let mut waiting = Vec::new();
                for from in awaited {
                    match self.receive(from)? {
                        Some(message) => received[from] = Some(message),
                        None => waiting.push(from),
                    }
                }
                awaited = waiting;
                let mut unsent = Vec::new();
                for (to, mut request) in sending {
                    if request.test()?.is_none() {
                        unsent.push((to, request));
                    }
                }
                sending = unsent;
                if awaited.len() + sending.len() < before {
                    nap = NAPS[0];
                    continue;
                }
                if looked.elapsed() > LOOK {
                    looked = Instant::now();
                    lost = self.look(awaited.iter().copied());
                    if lost.is_err() {
                        return Ok(());
                    }
                }
                sleep(nap);
                nap = (2 * nap).min(NAPS[1]);
            }
            Ok(())
        });
        lost?;
        exchanged.map_err(|error| format!("MPI: {error}"))?;
        Ok(received.into_iter().flatten().collect())
    }
}
