//! The `vila-u` command.

mod arguments;
mod commands;
mod console;

use std::process::ExitCode;

use arguments::{Cli, Command, Data, Eval};
use clap::Parser;
use vila_u::Error;

/// Keeps the memory of large tensors between operations: to get it back from the system, zeroed page by
/// page, costs as much as filling it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a thread's stack, as much as a main thread usually has.
const STACK: usize = 8 << 20;

/// No machine has so many cores.
const MOST_THREADS: usize = 4096;

/// How long unused memory is kept, in milliseconds.
const KEEP_MEMORY: i64 = 60_000;

fn main() -> ExitCode {
    // `mi_option_purge_delay`, which has no name in the bindings, comes before this one.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: sets a number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEEP_MEMORY as _) };
    let cli = Cli::parse();
    let console = console::Console::new(&cli.global);
    if let Some(bytes) = cli.global.max_input_memory {
        vila_u::media::set_memory_limit(bytes);
    }
    let outcome = start_threads().and_then(|()| match &cli.command {
        // These have threads of their own.
        Command::Serve(_) | Command::Train(_) => run(&cli, &console),
        // On a thread of the pool: a parallel loop that starts elsewhere waits for one of them to wake up, and
        // generation starts thousands of short ones.
        _ => rayon::scope(|_| run(&cli, &console)),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.finish();
            console::message(&format!("error: {error}"));
            ExitCode::from(match error {
                Error::Usage(_) => 2,
                _ => 1,
            })
        }
    }
}

fn start_threads() -> vila_u::Result<()> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let asked = asked.and_then(|number| number.parse::<usize>().ok());
    if asked.is_some_and(|threads| threads > MOST_THREADS) {
        return Err(Error::usage(format!(
            "RAYON_NUM_THREADS is more than {MOST_THREADS}: set it to the number of cores, or not at all"
        )));
    }
    let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK);
    let started = pool.build_global();
    started.map_err(|error| Error::failed(format!("starting threads: {error}")))
}

fn run(cli: &Cli, console: &console::Console) -> vila_u::Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Generate(args) => commands::generate::run(global, args, console),
        Command::Ask(args) => commands::ask::run(global, args, console),
        Command::Serve(args) => commands::serve::run(global, args, console),
        Command::Reconstruct(args) => commands::reconstruct::run(global, args, console),
        Command::Encode(args) => commands::encode::run(global, args, console),
        Command::Decode(args) => commands::decode::run(global, args, console),
        Command::Classify(args) => commands::classify::run(global, args, console),
        Command::Tokenize(args) => commands::tokenize::run(global, args, console),
        Command::Score(args) => commands::score::run(global, args, console),
        Command::Train(args) => commands::train::run(global, args, console),
        Command::Data(Data::Inspect(args)) => commands::data_inspect::run(args, console),
        Command::Data(Data::Nano(args)) => commands::data_nano::run(args, console),
        Command::Eval(Eval::Answers(args)) => {
            commands::eval_answers::answers(global, args, console)
        }
        Command::Eval(Eval::VideoQa(args)) => {
            commands::eval_answers::video_qa(global, args, console)
        }
        Command::Eval(Eval::Compare(args)) => commands::eval_compare::run(args, console),
        Command::Eval(Eval::Fid(args)) => commands::eval_fid::run(global, args, console),
        Command::Eval(Eval::Reconstruction(args)) => {
            commands::eval_reconstruction::run(global, args, console)
        }
        Command::Eval(Eval::Nano(args)) => commands::eval_nano::run(global, args, console),
        Command::Eval(Eval::Quantized(args)) => {
            commands::eval_quantized::run(global, args, console)
        }
        Command::Eval(Eval::ZeroShot(args)) => commands::eval_zero_shot::run(global, args, console),
        Command::Eval(Eval::Loss(args)) => commands::eval_loss::run(global, args, console),
        Command::Bench(args) => commands::bench::run(global, args, console),
        Command::Info(args) => commands::info::run(global, args, console),
        Command::Export(args) => commands::export::run(global, args, console),
        Command::Convert(args) => commands::convert::run(args, console),
    }
}
