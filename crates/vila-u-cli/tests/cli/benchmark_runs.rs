//! Runs over the prompts of a benchmark that are killed, asked to stop, or out of disk, and go on as if nothing had been.
#![cfg(unix)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    benchmarks::{folder, manifest, tree},
    json as run, vila_u,
};

/// Twelve prompts with two pictures each.
fn prompts() -> TempDir {
    let lines = (0..12).map(|n| format!("a red heart number {n} on a blue background\n"));
    folder("prompts.txt", &lines.collect::<String>())
}

const RUN: [&str; 9] = [
    "generate",
    "--prompts",
    "prompts.txt",
    "--layout",
    "flat",
    "-n",
    "2",
    "-o",
    "out",
];

fn spawn(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(RUN)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until so many files are there, or the run is over.
fn wait_for(child: &mut Child, out: &Path, files: usize) {
    let start = Instant::now();
    while manifest(out).len() < files && child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "no {files} files"
        );
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_that_is_killed_or_stopped_goes_on_where_it_was() {
    let whole = prompts();
    assert_eq!(run(whole.path(), &RUN)[0]["generated"], 24);
    let whole = manifest(&whole.path().join("out"));
    let f = prompts();
    let out = f.path().join("out");
    for signal in [libc::SIGKILL, libc::SIGINT, libc::SIGTERM] {
        let before = manifest(&out).len();
        let mut child = spawn(f.path());
        wait_for(&mut child, &out, before + 1);
        // SAFETY: sends a signal to a child that was not waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let message = String::from_utf8(stderr).unwrap();
        if signal != libc::SIGKILL && !status.success() {
            assert_eq!(status.code(), Some(1), "{message}");
            assert!(message.contains("interrupted"), "{message}");
        }
    }
    let before = manifest(&out);
    let written = |line: &Value| {
        let path = out.join(line["file"].as_str().unwrap());
        fs::metadata(path).unwrap().modified().unwrap()
    };
    let times: Vec<_> = before.iter().map(written).collect();
    let printed = run(f.path(), &RUN);
    assert_eq!(printed[0]["present"], before.len());
    assert_eq!(times, before.iter().map(written).collect::<Vec<_>>());
    // Every file once, and each as if nothing had been.
    assert_eq!(manifest(&out), whole);
    assert_eq!(tree(&out).len(), 25);
}

/// No file may become larger than the pictures that are to be written: what a full disk looks like, too.
#[test]
fn a_full_disk_loses_nothing() {
    let f = folder("prompts.txt", "a dog\na cat\n");
    let first = [
        "generate",
        "--prompts",
        "prompts.txt",
        "--layout",
        "flat",
        "-o",
        "out",
        "--shard",
        "1/2",
    ];
    run(f.path(), &first);
    let limited = "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_vila-u")]);
    let all = &first[..7];
    let output = shell.args(all).current_dir(f.path()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("00001.png"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    let printed = run(f.path(), all);
    assert_eq!(
        (&printed[0]["generated"], &printed[0]["present"]),
        (&json!(1), &json!(1))
    );
    let expected = [
        "00000.png",
        "00001.png",
        "manifest.1-of-2.jsonl",
        "manifest.jsonl",
    ];
    assert_eq!(tree(&f.path().join("out")), expected);
}

#[test]
fn weights_that_are_no_numbers_end_the_run() {
    let f = folder("prompts.txt", "a dog\na cat\n");
    run(f.path(), &["export", "nano", "-o", "damaged"]);
    let path = f.path().join("damaged/vision_tower/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let bias = metadata.info("rqtransformer.classifier_mlp.linear.bias");
    let (start, end) = bias.unwrap().data_offsets;
    bytes[8 + header..][start..end].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let mut all = vec!["--quiet", "--model", "damaged"];
    all.extend(RUN);
    let output = vila_u(f.path(), &all);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("not numbers"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(tree(&f.path().join("out")), ["manifest.jsonl"]);
}
