//! Tells the program which git revision it is built from; runs note it in their folder.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Every commit and checkout is noted there.
    let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) else {
        return;
    };
    println!("cargo:rerun-if-changed={log}");
    // Sources unpacked inside somebody else's repository are not of it.
    let ours = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    if let Some(revision) = git(&["rev-parse", "HEAD"]).filter(|_| ours) {
        println!("cargo:rustc-env=VILA_U_REVISION={revision}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}
