//! `vila-u serve`: one HTTP server for both directions of VILA-U, understanding and generation.
//!
//! A request comes in over `server.rs`, which bounds connections, headers and time; `body.rs` and `media.rs` turn it
//! into what the model reads; `worker.rs` gives it to the engine, on the one thread that owns it; and a file of `api/`
//! answers it in the shape that its clients know.

mod access_log;
mod api;
mod app;
mod auth;
mod body;
mod connection;
mod engine_loop;
mod errors;
mod extract;
mod file_store;
mod lenient;
mod media;
mod metrics;
mod page;
mod pictures;
mod remote;
mod server;
mod sse;
mod unread;
mod worker;

pub use app::Options;
pub use server::Server;
