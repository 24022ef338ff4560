//! Options of the server.

use std::{path::PathBuf, time::Duration};

use clap::Args;

#[derive(Args)]
pub struct Serve {
    /// The address to listen on; 0.0.0.0 for all of this machine
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// What clients must know: their `Authorization: Bearer KEY`. Better given in the environment, where others of this
    /// machine do not see it
    #[arg(
        long,
        value_name = "KEY",
        env = "VILA_U_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,
    /// Let web pages of this origin use the server, as in https://example.org, and let the server be reached by its
    /// name; * for all of both. May be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// How long running requests may take to finish when the server is asked to end
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// Requests that may wait; further ones are told to come back
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_queue: usize,
    /// Fetch pictures and videos that requests name by http and https URLs, from public addresses alone
    #[arg(long)]
    pub allow_remote_media: bool,
    /// Read pictures and videos that requests name by file:// URLs, under this folder alone
    #[arg(long, value_name = "FOLDER")]
    pub media_path: Option<PathBuf>,
}
