//! A machine with AVX-512 would never run what it does with AVX2: tests are run again for each set of instructions.

use std::process::Command;

use vila_u_kernels::{CPU_VARIABLE, InstructionSet};

/// Runs all tests of this program again, in programs of their own, because the set is chosen once.
#[test]
fn tests_pass_with_every_instruction_set() {
    if std::env::var_os(CPU_VARIABLE).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("the path of this program");
    for set in InstructionSet::available().filter(|set| *set != InstructionSet::used()) {
        let mut tests = Command::new(&program);
        let output = tests.env(CPU_VARIABLE, set.name()).output();
        let output = output.expect("the program runs");
        assert!(
            output.status.success(),
            "with {}:\n{}",
            set.name(),
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
