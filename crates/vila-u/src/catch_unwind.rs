//! Panics of a library that are expected and caught, without their message.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
    thread,
};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What the work gives, or none if it panics; then nothing is printed about it. Panics of other threads
/// are reported as ever.
pub(crate) fn catch_unwind_silent<T>(work: impl FnOnce() -> T) -> Option<T> {
    static INSTALLED: Once = Once::new();
    // A hook cannot be changed by a thread that panics; its own destructors may get here.
    if !thread::panicking() {
        INSTALLED.call_once(|| {
            let report = take_hook();
            set_hook(Box::new(move |panic| {
                if !QUIET.get() {
                    report(panic);
                }
            }));
        });
    }
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    result.ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    /// Tests share one hook and print where they like: this one runs again, alone, to be heard.
    #[test]
    fn only_what_is_caught_is_quiet() {
        const ALONE: &str = "VILA_U_TEST_ALONE";
        if env::var_os(ALONE).is_some() {
            assert_eq!(catch_unwind_silent(|| 1), Some(1));
            let other = || thread::spawn(|| panic!("heard at the same time")).join();
            let failed = catch_unwind_silent(|| {
                assert!(other().is_err());
                panic!("not heard")
            });
            assert_eq!(failed, None::<()>);
            assert!(thread::spawn(|| panic!("heard afterwards")).join().is_err());
            return;
        }
        let name = "catch_unwind::tests::only_what_is_caught_is_quiet";
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("heard at the same time"), "{printed}");
        assert!(printed.contains("heard afterwards"), "{printed}");
        assert!(!printed.contains("not heard"), "{printed}");
    }
}
