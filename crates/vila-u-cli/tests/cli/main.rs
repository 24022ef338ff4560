//! The binary as a user runs it: the recorded model through every command, and bad input of every
//! kind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod abilities;
mod answers;
mod bad_input;
mod bench;
mod benchmark_runs;
mod benchmarks;
mod fid;
mod hub;
mod inputs_and_outputs;
#[cfg(feature = "mpi")]
mod mpi;
mod nano;
mod plan;
mod quantized;
mod recorded;
mod runs;
mod serve;
mod video;
mod zero_shot;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The folder of the recorded model, its inputs and its outputs.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vila-u/tests/golden/tiny-d4")
}

fn input(name: &str) -> String {
    golden().join("inputs").join(name).display().to_string()
}

/// Runs `vila-u` in `folder`.
fn vila_u(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Fails unless the exit code is `code`, nothing is printed as a result, and the message holds every one of `words`; of code
/// 1 it is one line.
fn fails_with(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = vila_u(folder, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    for word in words {
        assert!(
            message.contains(word),
            "{arguments:?}: no {word:?} in: {message}"
        );
    }
    if code == 1 {
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        assert!(message.starts_with("error: "), "{message}");
    }
}

/// Runs `vila-u` with --json; the lines it prints.
fn json(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let output = vila_u(folder, &all);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The same on the recorded model.
fn recorded_json(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let model = golden().join("checkpoint").display().to_string();
    let mut all = vec!["--model", &model];
    all.extend(arguments);
    json(folder, &all)
}
