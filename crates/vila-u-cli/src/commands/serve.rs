//! `vila-u serve`: the model behind HTTP.

use std::{path::Path, thread, time::Duration};

use vila_u::{Error, Result};
use vila_u_serve::{Options, Server};

use super::pipeline;
use crate::{
    arguments::{Global, Serve},
    console::{self, Console},
};

/// How often is looked whether it is time to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn run(global: &Global, args: &Serve, console: &Console) -> Result<()> {
    if args.api_key.as_deref() == Some("") {
        return Err(Error::usage(
            "the API key is empty: give one, or leave it out",
        ));
    }
    if let Some(folder) = args.media_path.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Error::usage(format!(
            "--media-path {}: there is no such folder",
            folder.display()
        )));
    }
    console.stop_on_termination();
    raise_open_files();
    let server = Server::bind(Options {
        host: args.host.clone(),
        port: args.port,
        api_key: args.api_key.clone(),
        cors: args.cors.clone(),
        drain: args.drain,
        max_queue: args.max_queue,
        allow_remote_media: args.allow_remote_media,
        media_path: args.media_path.clone(),
        model: name(&global.model),
        device: global.device.clone(),
        dtype: global.dtype.name().to_string(),
        access_log: !global.quiet,
    })?;
    let pipeline = pipeline(global, console).build()?;
    server.serve(pipeline)?;
    // Whoever started it waits for this line, --quiet or not.
    console::message(&format!("listening on http://{}", server.address()));
    while !console.stopped() {
        thread::sleep(LOOK_EVERY);
    }
    console.say("ending: running requests may finish, a second signal stops them");
    match server.stop() {
        0 => Ok(()),
        left => {
            console.say(format!(
                "{left} requests were cut off: they took longer than --drain"
            ));
            Ok(())
        }
    }
}

/// What the model is called, without the folders of this machine.
fn name(model: &str) -> String {
    match model.strip_prefix("hf:") {
        Some(name) => name.into(),
        None => {
            let name = Path::new(model).file_name();
            name.map_or(model.into(), |name| name.to_string_lossy().into_owned())
        }
    }
}

/// Each connection is an open file, and most systems begin with 1,024 of them.
fn raise_open_files() {
    #[cfg(unix)]
    // SAFETY: reads and sets two numbers, which are initialised.
    unsafe {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            // Some systems take no larger number, whatever they say.
            limit.rlim_cur = limit.rlim_max.min(10_240).max(limit.rlim_cur);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
