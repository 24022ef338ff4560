//! Ranks that `mpirun` starts: the numbers of threads and of one rank, and what becomes of a job of which a rank dies,
//! that is told to stop, or whose ranks do not agree. `tools/check_mpi` runs these.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::json;
use super::runs::{arguments, assert_same, metrics, no_leftovers, recipe, signal, wait_for};

/// One job at a time: a test measures how long the end of one takes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `mpirun` with groups of processes, each group with arguments of its own.
fn mpirun(folder: &Path, groups: &[(usize, Vec<&str>)]) -> Child {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none"]);
    for (index, (count, arguments)) in groups.iter().enumerate() {
        command.args((index > 0).then_some(":"));
        command.args(["-n", &count.to_string(), env!("CARGO_BIN_EXE_vila-u")]);
        command.args(arguments);
    }
    // It asks twice whether root means it.
    command
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn done(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said.into_owned()
}

fn failed(child: Child) -> String {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{said}");
    said
}

/// The process of a rank, once it says so.
fn process(rank: usize, folder: &Path) -> Option<String> {
    let own = fs::read_dir("/proc").unwrap().flatten().find(|process| {
        let at = process.path();
        let is_here = fs::read_link(at.join("cwd")).is_ok_and(|cwd| cwd == folder);
        let environment = fs::read(at.join("environ")).unwrap_or_default();
        let name = format!("OMPI_COMM_WORLD_RANK={rank}");
        is_here
            && environment
                .split(|byte| *byte == 0)
                .any(|one| one == name.as_bytes())
    })?;
    own.file_name().into_string().ok()
}

/// The tower's stages, with a discriminator and the moving average of the weights.
#[test]
fn processes_are_threads_to_the_bit() {
    let _alone = alone();
    let folder = recipe();
    for ranks in ["2", "4"] {
        let _ = fs::remove_dir_all(folder.path().join("whole"));
        let _ = fs::remove_dir_all(folder.path().join("mpi"));
        let mut threads = arguments("out=whole", "steps=6", false);
        let more = [
            "--set",
            "ema_decay=0.9",
            "--set",
            "stages.1.objective.adversarial={start_step=1,layers=2,width=4}",
        ];
        threads.extend(more);
        threads.extend(["--ranks", ranks]);
        json(folder.path(), &threads);
        let mut processes = arguments("out=mpi", "steps=6", false);
        processes.extend(more);
        let count = ranks.parse().unwrap();
        done(mpirun(folder.path(), &[(count, processes)]));
        assert_same(folder.path(), "mpi");
    }
}

/// The language model's stage, its adapters trained.
#[test]
fn four_processes_are_one_with_four_batches() {
    let _alone = alone();
    let folder = recipe();
    let sft = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/nano-sft.toml");
    let sft = sft.display().to_string();
    let train = |out: &'static str, batches: &'static str| -> Vec<&str> {
        let settings = [
            out,
            batches,
            "init=nano",
            "steps=3",
            "batch_size=1",
            "mixed_precision=false",
            "lora={ rank = 4, alpha = 8 }",
            "eval_every=100",
            "sample_every=100",
        ];
        let set = settings.into_iter().flat_map(|setting| ["--set", setting]);
        ["train", &sft].into_iter().chain(set).collect()
    };
    json(
        folder.path(),
        &train("out=one", "gradient_accumulation_steps=4"),
    );
    let processes = train("out=four", "gradient_accumulation_steps=1");
    done(mpirun(folder.path(), &[(4, processes)]));
    let [one, four] = ["one", "four"].map(|out| folder.path().join(out));
    assert_eq!(metrics(&one), metrics(&four));
    let weights = |out: &Path| fs::read(out.join("adapter/adapter_model.safetensors")).ok();
    assert_eq!(weights(&one), weights(&four));
}

#[test]
fn a_job_whose_rank_is_killed_ends_and_goes_on() {
    let _alone = alone();
    let folder = recipe();
    let train = |resume| arguments("out=killed", "steps=14", resume);
    let mut whole = arguments("out=whole", "steps=14", false);
    whole.extend(["--ranks", "3"]);
    json(folder.path(), &whole);
    let out = folder.path().join("killed");
    let mut job = mpirun(folder.path(), &[(3, train(false))]);
    wait_for(&mut job, &out, 5);
    let killed = process(2, folder.path()).expect("rank 2");
    let status = Command::new("kill").args(["-9", &killed]).status().unwrap();
    assert!(status.success());
    let start = Instant::now();
    let said = failed(job);
    assert!(start.elapsed() < Duration::from_secs(5), "{said}");
    assert!(said.contains("rank 2"), "{said}");
    done(mpirun(folder.path(), &[(3, train(true))]));
    assert_same(folder.path(), "killed");
    no_leftovers(&out);
}

#[test]
fn a_job_that_is_told_to_stop_goes_on_with_fewer_ranks() {
    let _alone = alone();
    let folder = recipe();
    let train = |resume| arguments("out=stopped", "steps=40", resume);
    let out = folder.path().join("stopped");
    let mut job = mpirun(folder.path(), &[(4, train(false))]);
    wait_for(&mut job, &out, 3);
    signal(&job, "-USR1");
    let said = done(job);
    let steps = metrics(&out).len();
    assert!(
        said.contains(&format!("stopped and saved at step {steps} of 40")),
        "{said}"
    );
    assert_eq!(said.matches("stopped and saved").count(), 1, "{said}");
    done(mpirun(folder.path(), &[(2, train(true))]));
    assert_eq!(metrics(&out).len(), 40);
}

#[test]
fn ranks_that_do_not_agree_or_cannot_go_on_are_named() {
    let _alone = alone();
    let folder = recipe();
    let train = |seed: &'static str| {
        let mut all = arguments("out=none", "steps=4", false);
        all.extend(["--set", seed]);
        all
    };
    let jobs = [(1, train("seed=1")), (1, train("seed=2"))];
    let said = failed(mpirun(folder.path(), &jobs));
    assert!(said.contains("error: rank 1 has another recipe"), "{said}");
    let jobs = [(1, train("seed=1")), (1, train("sed=1"))];
    let said = failed(mpirun(folder.path(), &jobs));
    assert!(
        said.contains("error: rank 1: ") && said.contains("sed"),
        "{said}"
    );
    let threads = [train("seed=1"), vec!["--ranks", "2"]].concat();
    let said = failed(mpirun(folder.path(), &[(2, threads)]));
    assert!(said.contains("mpirun -n 2"), "{said}");
}

/// Rank 0 alone writes: that its disk is full ends the whole job, with the checkpoint before. Each of two ranks has one
/// core, as `mpirun` has it.
#[test]
fn a_full_disk_ends_the_job() {
    let _alone = alone();
    let folder = recipe();
    done(mpirun(
        folder.path(),
        &[(2, arguments("out=full", "steps=4", false))],
    ));
    let program = env!("CARGO_BIN_EXE_vila-u");
    let run = "trap '' XFSZ; [ $OMPI_COMM_WORLD_RANK = 1 ] || ulimit -f 40; exec \"$0\" \"$@\"";
    let mut arguments_of_shell = vec!["-c", run, program];
    arguments_of_shell.extend(arguments("out=full", "steps=6", true));
    let mut command = Command::new("mpirun");
    command
        .args(["--oversubscribe", "-n", "2", "bash"])
        .args(arguments_of_shell)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .current_dir(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("step 6 could not be written"), "{said}");
    assert!(said.contains("that of step 4 is kept"), "{said}");
}
