//! Listening, accepting, and ending.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use vila_u::{Error, Pipeline, Result, media};

use crate::{
    access_log::{self, Peer},
    api::{self, models::ModelCard},
    app::{App, Loaded, Options, Shared},
    connection::Connection,
    worker::Worker,
};

/// Threads that read and write; what takes long is done elsewhere.
const THREADS: usize = 2;
/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;
/// Connections that the system accepts for us until we do.
const BACKLOG: u32 = 1024;
/// The headers of a request are here after so long, or the connection is closed; idle ones are as well, later than
/// proxies let go of them.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Clients that take nothing of an answer for so long are cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the headers of a request.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// A server that listens. [`Self::serve`] gives it the model.
pub struct Server {
    app: Shared,
    address: SocketAddr,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens, and answers from now on that the model is being loaded.
    ///
    /// Errors when the address is not one of this machine or in use.
    pub fn bind(options: Options) -> Result<Self> {
        // Strangers send large files as easily as small ones.
        media::fix_memory_limit();
        let (host, port) = (options.host.clone(), options.port);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|error| Error::failed(format!("starting threads: {error}")))?;
        let listener = {
            let _runtime = runtime.enter();
            listen(&host, port)?
        };
        let address = listener.local_addr();
        let address = address.map_err(|error| Error::failed(format!("listening: {error}")))?;
        let app = Arc::new(App::new(options, address.ip().is_loopback()));
        let router = api::router(app.clone());
        let (stop, stopping) = watch::channel(false);
        let accepting = runtime.spawn(accept(listener, app.clone(), router, stopping));
        Ok(Self {
            app,
            address,
            runtime,
            stop,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with this model from now on; a usage error where the vision tower was loaded alone.
    pub fn serve(&self, pipeline: Pipeline) -> Result<()> {
        let options = &self.app.options;
        let card = ModelCard::of(&pipeline, options, self.app.started)?;
        let metrics = self.app.metrics.clone();
        let worker = Worker::start(Arc::new(pipeline), options.max_queue, metrics)?;
        self.app.set_loaded(Loaded { worker, card });
        Ok(())
    }

    /// Takes no more requests, lets the running ones finish within [`Options::drain`], and stops the others. How many
    /// these were.
    pub fn stop(self) -> usize {
        let Self {
            app,
            runtime,
            stop,
            accepting,
            ..
        } = self;
        app.drain();
        let _ = stop.send(true);
        let finished = async {
            let _ = accepting.await;
            if let Some(loaded) = app.loaded() {
                loaded.worker.idle().await;
            }
        };
        let finished =
            runtime.block_on(async { tokio::time::timeout(app.options.drain, finished).await });
        let worker = app.loaded().map(|loaded| &loaded.worker);
        let left = match finished {
            Ok(()) => 0,
            Err(_) => worker.map_or(0, Worker::unfinished),
        };
        runtime.shutdown_background();
        if let Some(worker) = worker {
            worker.end();
        }
        left
    }
}

fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let unknown = |reason: String| {
        Error::failed(format!(
            "cannot listen on {host}: {reason}: give an address of this machine with --host"
        ))
    };
    let addresses = (host, port).to_socket_addrs();
    let addresses = addresses.map_err(|error| unknown(error.to_string()))?;
    let mut failure = unknown("it has no address".into());
    for address in addresses {
        let listener = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let listener = listener.and_then(|socket| {
            // A server that was just ended leaves connections behind that are no reason to wait.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        failure = match listener {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Error::failed(format!(
                "port {port} of {host} is in use: end what listens there, or choose another with --port (0 for any \
                 that is free)"
            )),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Error::failed(format!(
                    "port {port} of {host} is not allowed to this user: choose one above 1023 with --port"
                ))
            }
            Err(error) => unknown(error.to_string()),
        };
    }
    Err(failure)
}

/// Accepts connections until it is time to stop; then waits for the requests that are being answered.
async fn accept(
    listener: TcpListener,
    app: Shared,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone());
                let served = graceful.watch(connection);
                let app = app.clone();
                app.metrics.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // What goes wrong is the connection's alone.
                    if let Err(error) = served.await {
                        access_log::malformed(&app, peer, &error);
                    }
                    app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
            }
            // Too many open files, or a client that is gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

type Served<S> = http1::Connection<TokioIo<Connection>, S>;

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
) -> Served<
    impl Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        Future: Send,
    > + Send,
> {
    // Tokens are small, and each is awaited.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        TowerToHyperService::new(router.clone()).call(request.map(Body::new))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(
            TokioIo::new(Connection::new(stream, STALL_TIMEOUT)),
            service,
        )
}
