//! `vila-u train --ranks`: this process among others that the person has started, or with others that it
//! starts itself on this machine.

use std::{
    io::Read,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use vila_u::{
    Error, Result, device,
    training::{
        distributed::{ProcessGroup, fingerprint},
        recipe::Recipe,
    },
};

use crate::{
    arguments::{Global, Train},
    console::Console,
};

/// How long the others may take to end once this one has.
const END: Duration = Duration::from_secs(20);

/// All ranks as this process knows them.
pub struct Launcher {
    pub process_group: Arc<ProcessGroup>,
    /// Ranks 1, 2, ... if they were started here.
    children: Vec<Child>,
}

impl Launcher {
    pub fn start(
        global: &Global,
        args: &Train,
        recipe: &Recipe,
        console: &Console,
    ) -> Result<Self> {
        let count = usize::from(args.ranks);
        let run = fingerprint(recipe, args.resume)?;
        let (rank, leader) = match (args.rank, &args.leader) {
            (Some(rank), Some(leader)) => (usize::from(rank), leader.as_str()),
            _ => (0, "127.0.0.1:0"),
        };
        let mut launcher = Self {
            process_group: Arc::default(),
            children: Vec::new(),
        };
        if rank >= count {
            return Err(Error::usage(format!(
                "--rank {rank} is none of {count}: they are counted from 0; give --ranks as well"
            )));
        }
        if count == 1 {
            return Ok(launcher);
        }
        if rank > 0 {
            launcher.process_group = Arc::new(ProcessGroup::join(leader, rank, count, run)?);
            return Ok(launcher);
        }
        let failed = |error| Error::failed(format!("--leader {leader}: {error}"));
        let listener = TcpListener::bind(leader).map_err(failed)?;
        if args.rank.is_none() {
            let address = listener.local_addr().map_err(failed)?.to_string();
            for rank in 1..count {
                let child = spawn(global, args, rank, &address)?;
                launcher.children.push(child);
            }
        }
        let children = &mut launcher.children;
        let wait = || {
            if console.stopped() {
                Err(Error::Interrupted)
            } else {
                still_there(children)
            }
        };
        launcher.process_group = Arc::new(ProcessGroup::host(&listener, count, run, wait)?);
        Ok(launcher)
    }

    /// Waits for the ranks that were started here.
    ///
    /// Errors when one of them has failed.
    pub fn end(mut self) -> Result<()> {
        let start = Instant::now();
        while self.running() && start.elapsed() < END {
            sleep(Duration::from_millis(5));
        }
        still_there(&mut self.children)
    }

    fn running(&mut self) -> bool {
        let mut children = self.children.iter_mut();
        children.any(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Those that have ended are not touched.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(global: &Global, args: &Train, rank: usize, leader: &str) -> Result<Child> {
    let failed = |error| Error::failed(format!("starting rank {rank}: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args([
        "--quiet",
        "--device",
        &device::of_rank(&global.device, rank)?,
        "train",
    ]);
    if let Some(bytes) = global.max_input_memory {
        command.args(["--max-input-memory", &format!("{}MB", bytes as f64 / 1e6)]);
    }
    command.args(&args.recipe);
    command.args(args.set.iter().map(|setting| format!("--set={setting}")));
    command.args(args.resume.then_some("--resume"));
    command.args([
        "--ranks",
        &args.ranks.to_string(),
        "--rank",
        &rank.to_string(),
        "--leader",
        leader,
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().map_err(failed)
}

/// Errors when one of the ranks has failed, with what it said last.
fn still_there(children: &mut [Child]) -> Result<()> {
    for (child, rank) in children.iter_mut().zip(1..) {
        if let Ok(Some(status)) = child.try_wait()
            && !status.success()
        {
            let mut said = String::new();
            if let Some(errors) = &mut child.stderr {
                let _ = errors.read_to_string(&mut said);
            }
            let last = said.lines().last().unwrap_or_default();
            let reason = last.strip_prefix("error: ").unwrap_or(last);
            return Err(Error::failed(format!(
                "rank {rank} has ended ({status}): {reason}"
            )));
        }
    }
    Ok(())
}
