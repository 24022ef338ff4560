use std::sync::{Arc, atomic::AtomicBool};
use vila_u::training::{Progress, Watch, recipe::Recipe, run};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let resume = args.iter().any(|arg| arg == "--resume");
    let overrides: Vec<String> = (args[1..].iter())
        .filter(|arg| *arg != "--resume")
        .cloned()
        .collect();
    let watch = Watch {
        progress: Box::new(|p: &Progress| {
            println!(
                "{}/{} {:.1}/s {}s left {:?}",
                p.step,
                p.steps,
                p.samples_per_second,
                p.time_left.as_secs(),
                p.metrics
            )
        }),
        stop: Arc::new(AtomicBool::new(false)),
    };
    let device = vila_u::device::select("cpu").expect("cpu");
    let done = Recipe::load(args[0].as_ref(), &overrides)
        .and_then(|recipe| run(&recipe, &device, resume, watch));
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
