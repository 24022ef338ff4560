//! One connection between two ranks.
//!
//! A message is `kind u8 | length u64 | bytes`, little-endian; its kind and its length are checked.

use std::io::{self, BufWriter, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::{SockRef, TcpKeepalive};

/// Begins a connection; another number when the messages change.
const MAGIC: &[u8; 16] = b"vila-u ranks 001";
/// How long a stranger may take to say what it is.
const STRANGER: Duration = Duration::from_secs(5);
/// How long a rank may be silent: rank 0 evaluates and saves for hours while the others wait. That a machine
/// is gone shows sooner, from the system's own probes.
const SILENT: Duration = Duration::from_secs(24 * 3600);
const PROBE: Duration = Duration::from_secs(15);
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes of a message whose length is not known before.
const MOST: u64 = 256 << 20;
/// Numbers converted at once.
const CHUNK: usize = 1 << 15;

/// Or why not, for the person.
pub(super) type Told<T> = std::result::Result<T, String>;

/// What a rank says of itself.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    pub version: String,
    pub rank: usize,
    pub ranks: usize,
    /// See [`super::fingerprint`].
    pub run: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub rank: usize,
    stream: TcpStream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// JSON.
    Value = 1,
    /// 32-bit.
    Floats = 2,
    /// Why the sender stops.
    Failure = 3,
}

impl Peer {
    /// Introduces this rank to rank 0.
    pub(super) fn join(stream: TcpStream, hello: &Hello) -> Told<Self> {
        let mut peer = Self { rank: 0, stream };
        let begin = || -> io::Result<()> {
            prepare(&peer.stream)?;
            (&peer.stream).write_all(MAGIC)
        };
        begin().map_err(|error| peer.gone(&error))?;
        peer.send_value(hello)?;
        Ok(peer)
    }

    /// Who it is that has connected, if it is a rank.
    pub(super) fn introduced(mut stream: TcpStream) -> Option<(Hello, Self)> {
        prepare(&stream).ok()?;
        stream.set_read_timeout(Some(STRANGER)).ok()?;
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic).ok()?;
        if magic != *MAGIC {
            return None;
        }
        let mut peer = Self { rank: 0, stream };
        let hello: Hello = match peer.header().ok()? {
            (Kind::Value, length) if length < 1 << 12 => {
                serde_json::from_slice(&peer.bytes(length).ok()?).ok()?
            }
            _ => return None,
        };
        peer.stream.set_read_timeout(Some(SILENT)).ok()?;
        peer.rank = hello.rank;
        Some((hello, peer))
    }

    /// Says why this rank stops, and lets it arrive: what is closed with something unread takes with it
    /// what was sent last.
    pub(super) fn farewell(&mut self, reason: &str) {
        let _ = self.stream.set_write_timeout(Some(FAREWELL));
        let _ = self.stream.set_read_timeout(Some(FAREWELL));
        let _ = self.send(
            Kind::Failure,
            reason.len(),
            [reason.as_bytes().to_vec()].into_iter(),
        );
        let _ = self.stream.shutdown(Shutdown::Write);
        let start = Instant::now();
        let mut rest = [0; 1 << 16];
        while start.elapsed() < FAREWELL && matches!(self.stream.read(&mut rest), Ok(1..)) {}
    }

    fn send(
        &mut self,
        kind: Kind,
        length: usize,
        bytes: impl Iterator<Item = Vec<u8>>,
    ) -> Told<()> {
        let write = || -> io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 18, &self.stream);
            out.write_all(&[kind as u8])?;
            out.write_all(&(length as u64).to_le_bytes())?;
            for part in bytes {
                out.write_all(&part)?;
            }
            out.flush()
        };
        let written = write();
        written.map_err(|error| match self.header() {
            // It has said why it is gone.
            Ok((Kind::Failure, length)) => self.reason(length),
            _ => self.gone(&error),
        })
    }

    pub(super) fn send_value(&mut self, value: &impl Serialize) -> Told<()> {
        let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        self.send(Kind::Value, json.len(), [json].into_iter())
    }

    pub(super) fn send_floats(&mut self, values: &[f32]) -> Told<()> {
        let bytes = |values: &[f32]| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        self.send(
            Kind::Floats,
            4 * values.len(),
            values.chunks(CHUNK).map(bytes),
        )
    }

    /// The length of the next message, which has to be of this kind.
    fn expect(&mut self, expected: Kind) -> Told<u64> {
        match self.header() {
            Ok((kind, length)) if kind == expected => Ok(length),
            Ok((Kind::Failure, length)) => Err(self.reason(length)),
            Ok(_) => Err(format!("rank {} is at another place of the run", self.rank)),
            Err(error) => Err(self.gone(&error)),
        }
    }

    pub(super) fn receive_value<T: DeserializeOwned>(&mut self) -> Told<T> {
        let length = self.expect(Kind::Value)?;
        let bytes = self.bytes(length).map_err(|error| self.gone(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("rank {}: {error}", self.rank))
    }

    /// Exactly as many floats as there are in `mine`, each put together with that of its place.
    pub(super) fn receive_floats(
        &mut self,
        mine: &mut [f32],
        mut put: impl FnMut(&mut f32, f32),
    ) -> Told<()> {
        let length = self.expect(Kind::Floats)?;
        if length != 4 * mine.len() as u64 {
            let (rank, here) = (self.rank, mine.len());
            return Err(format!(
                "rank {rank} has {} numbers where here are {here}",
                length / 4
            ));
        }
        let mut bytes = vec![0; 4 * CHUNK.min(mine.len())];
        for mine in mine.chunks_mut(CHUNK) {
            let bytes = &mut bytes[..4 * mine.len()];
            self.stream
                .read_exact(bytes)
                .map_err(|error| self.gone(&error))?;
            for (mine, value) in mine.iter_mut().zip(bytes.as_chunks().0) {
                put(mine, f32::from_le_bytes(*value));
            }
        }
        Ok(())
    }

    fn header(&mut self) -> io::Result<(Kind, u64)> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let kinds = [Kind::Value, Kind::Floats, Kind::Failure];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind);
        let kind = kind.ok_or_else(|| io::Error::other("it sent no message"))?;
        Ok((kind, u64::from_le_bytes(length)))
    }

    fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > MOST {
            return Err(io::Error::other("its message is too long"));
        }
        // Memory is taken as it comes.
        let mut bytes = Vec::new();
        (&self.stream).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Why it stops, which it has just begun to say. Rank 0 says whose reason it is.
    fn reason(&mut self, length: u64) -> String {
        let reason = self.bytes(length.min(1 << 16)).unwrap_or_default();
        let reason = String::from_utf8_lossy(&reason);
        match self.rank {
            0 => reason.into_owned(),
            rank => format!("rank {rank}: {reason}"),
        }
    }

    fn gone(&self, error: &io::Error) -> String {
        let rank = self.rank;
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("rank {rank} has not been heard of for too long")
            }
            io::ErrorKind::UnexpectedEof => format!("rank {rank} is gone: it has ended"),
            _ => format!("rank {rank} is gone: {error}"),
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
    SockRef::from(stream).set_tcp_keepalive(&probes)?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SILENT))?;
    stream.set_read_timeout(Some(SILENT))
}
