//! Videos of other codecs and containers, decoded by an installed `ffmpeg`.
//!
//! It runs twice: once to count the frames, once to send those that are wanted as PPM images. It gets
//! one local file of a known container and no network, and is stopped when it takes too long.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use image::RgbImage;

use super::{FrameRead, Video};
use crate::{
    Error, Result,
    media::{
        Picture,
        memory_limit::check_memory,
        read::{check_size, pixels},
    },
};

/// Time for one run.
const LONGEST_RUN: Duration = Duration::from_secs(600);
/// Longer videos are refused.
const MOST_FRAMES: usize = 1 << 20;
/// Containers that may be opened; playlists, which name other files, are not among them.
const CONTAINERS: &str = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg";

/// What a file is that is known by its beginning but not decoded here.
pub(super) fn kind(head: &[u8]) -> Option<String> {
    let has = |text: &str| head.windows(text.len()).any(|part| part == text.as_bytes());
    if head.starts_with(b"\x1a\x45\xdf\xa3") {
        // The codec stands in the description of the track, near the beginning.
        let codecs = [
            ("V_VP8", "VP8"),
            ("V_VP9", "VP9"),
            ("V_AV1", "AV1"),
            ("V_MPEG4/ISO/AVC", "H.264"),
            ("V_MPEGH/ISO/HEVC", "HEVC (H.265)"),
        ];
        let codec = codecs.iter().find(|(name, _)| has(name));
        return Some(match codec {
            Some((_, codec)) => format!("{codec} in a Matroska or WebM file"),
            None => "a Matroska or WebM file".into(),
        });
    }
    let kinds: [(bool, &str); 6] = [
        (
            head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI "),
            "an AVI file",
        ),
        (
            head.first() == Some(&0x47) && head.get(188) == Some(&0x47),
            "an MPEG transport stream",
        ),
        (head.starts_with(&[0, 0, 1, 0xba]), "an MPEG program stream"),
        (head.starts_with(b"FLV\x01"), "a Flash video"),
        (
            head.starts_with(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
            "a Windows Media file",
        ),
        (head.starts_with(b"OggS"), "an Ogg file"),
    ];
    let mut found = kinds.iter().filter(|(found, _)| *found);
    found.next().map(|(_, name)| name.to_string())
}

pub(super) struct Ffmpeg {
    path: PathBuf,
    program: PathBuf,
    /// What is decoded, for messages.
    kind: String,
}

impl Ffmpeg {
    /// `kind`: what the video is. Errors where no `ffmpeg` is installed.
    pub(super) fn open(path: &Path, kind: &str) -> Result<Self> {
        let program = installed().ok_or_else(|| {
            Error::invalid(
                path,
                format!(
                    "{kind} is decoded by `ffmpeg`, which is not installed: install it, or convert the video \
                     elsewhere (`ffmpeg -i VIDEO -c:v libx264 -pix_fmt yuv420p video.mp4`)"
                ),
            )
        })?;
        Ok(Self {
            path: path.into(),
            program,
            kind: kind.into(),
        })
    }

    /// Runs it on the video. The first frame has number 0, and none is repeated or left out.
    fn run(&self, filter: &str, output: &[&str]) -> Result<Run> {
        let frames_as_they_are = frames_as_they_are(&self.program);
        let failed = |reason: std::io::Error| self.failed(&reason.to_string());
        let path = std::path::absolute(&self.path).map_err(Error::io(&self.path))?;
        let mut input = std::ffi::OsString::from("file:");
        input.push(&path);
        let mut command = Command::new(&self.program);
        command
            .args(["-nostdin", "-v", "error", "-protocol_whitelist", "file"])
            .args(["-format_whitelist", CONTAINERS, "-i"])
            .arg(input)
            .args(["-map", "0:v:0", "-an", "-sn", "-dn"])
            .args(["-vf", &format!("settb=1/25,setpts=N,{filter}")])
            .args([frames_as_they_are, "passthrough"])
            .args(output)
            .arg("pipe:1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let missing = || self.failed("it has no output");
        let out = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let errors = child.stderr.take().ok_or_else(missing)?;
        // What it complains about, read all the while so that it never waits for us.
        let complaint = thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.take(1 << 16).read_to_string(&mut text);
            text
        });
        let child = Arc::new(Mutex::new(child));
        let late = Arc::new(AtomicBool::new(false));
        let (done, ended) = channel::<()>();
        let watched = (child.clone(), late.clone());
        thread::spawn(move || {
            if ended.recv_timeout(LONGEST_RUN) == Err(RecvTimeoutError::Timeout) {
                watched.1.store(true, Ordering::SeqCst);
                stop(&watched.0);
            }
        });
        Ok(Run {
            child,
            late,
            out,
            complaint: Some(complaint),
            _done: done,
        })
    }

    /// An error when a run has been stopped.
    fn in_time(&self, run: &Run) -> Result<()> {
        if run.late.load(Ordering::SeqCst) {
            Err(self.failed("it takes more than 10 minutes: cut the video"))
        } else {
            Ok(())
        }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::invalid(
            &self.path,
            format!("{}: `ffmpeg` cannot decode it: {reason}", self.kind),
        )
    }
}

impl Video for Ffmpeg {
    fn total(&mut self) -> Result<usize> {
        let mut run = self.run("null", &["-f", "framecrc"])?;
        let mut total = 0;
        let mut line = String::new();
        loop {
            line.clear();
            match (&mut run.out).take(1 << 12).read_line(&mut line) {
                Ok(0) => break,
                Ok(_) if line.starts_with('#') => {}
                Ok(_) => total += 1,
                Err(error) => return Err(self.failed(&error.to_string())),
            }
            if total > MOST_FRAMES {
                let reason = format!("more than {MOST_FRAMES} frames: cut the video");
                return Err(Error::invalid(&self.path, reason));
            }
        }
        self.in_time(&run)?;
        match (total, run.end()) {
            (0, complaint) => Err(self.failed(&complaint)),
            (total, _) => Ok(total),
        }
    }

    fn read(&mut self, wanted: &[usize]) -> Result<FrameRead> {
        let chosen: Vec<String> = wanted
            .iter()
            .map(|index| format!("eq(n,{index})"))
            .collect();
        let length = std::fs::metadata(&self.path)
            .map_err(Error::io(&self.path))?
            .len();
        let filter = format!("select='{}',setpts=N", chosen.join("+"));
        let output = ["-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe"];
        let mut run = self.run(&filter, &output)?;
        let mut found = Vec::with_capacity(wanted.len());
        while found.len() < wanted.len() {
            match ppm(&mut run.out, wanted.len(), length) {
                Ok(Some(image)) => found.push(Picture::Rgb(image)),
                Ok(None) => break,
                Err(reason) => return Err(self.failed(&reason.to_string())),
            }
        }
        self.in_time(&run)?;
        Ok(if found.len() == wanted.len() {
            FrameRead::All(found)
        } else {
            FrameRead::CutAfter(wanted.get(found.len()).copied().unwrap_or(0))
        })
    }
}

/// A run under way; it is stopped when this goes.
struct Run {
    child: Arc<Mutex<Child>>,
    /// Whether it has been stopped because it took too long.
    late: Arc<AtomicBool>,
    out: BufReader<ChildStdout>,
    complaint: Option<thread::JoinHandle<String>>,
    /// Tells the watch that it need not watch any more.
    _done: Sender<()>,
}

impl Run {
    /// Waits for the end. Gives the first line of what it complained about.
    fn end(mut self) -> String {
        stop(&self.child);
        let text = self.complaint.take().map(|thread| thread.join());
        let text = text.and_then(|text| text.ok()).unwrap_or_default();
        let line = text.lines().find(|line| !line.trim().is_empty());
        line.unwrap_or("there are no frames").trim().to_string()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        stop(&self.child);
    }
}

fn stop(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// The `ffmpeg` on the path.
fn installed() -> Option<PathBuf> {
    let name = format!("ffmpeg{}", env::consts::EXE_SUFFIX);
    let folders = env::var_os("PATH")?;
    let mut files = env::split_paths(&folders).map(|folder| folder.join(&name));
    files.find(|file| file.is_file())
}

/// What the option is called by which an `ffmpeg` neither repeats frames nor leaves any out, for a constant rate or
/// any other reason: since 5.1 `-fps_mode`, before that `-vsync`, which later ones do not know.
fn frames_as_they_are(program: &Path) -> &'static str {
    static NAMES: Mutex<BTreeMap<PathBuf, &str>> = Mutex::new(BTreeMap::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(program) {
        return name;
    }
    let help = Command::new(program)
        .args(["-nostdin", "-v", "quiet", "-h", "long"])
        .stdin(Stdio::null())
        .output();
    let knows = help.is_ok_and(|help| {
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        text.contains("-fps_mode")
    });
    let name = if knows { "-fps_mode" } else { "-vsync" };
    names.insert(program.to_path_buf(), name);
    name
}

/// The next of `count` images of a stream of binary PPM images: `P6 width height 255` and the pixels. `length`: of the
/// file that they are from.
fn ppm(stream: &mut impl BufRead, count: usize, length: u64) -> Result<Option<RgbImage>> {
    let read = |error: std::io::Error| Error::failed(error.to_string());
    if stream.fill_buf().map_err(read)?.is_empty() {
        return Ok(None);
    }
    let mut word = || {
        let mut word = String::new();
        for byte in stream.by_ref().take(16).bytes() {
            match byte.map_err(read)? {
                space if space.is_ascii_whitespace() => break,
                byte => word.push(byte.into()),
            }
        }
        Ok::<_, Error>(word)
    };
    let header = [word()?, word()?, word()?, word()?];
    let number = |text: &String| text.parse::<u32>().ok();
    let other = || Error::failed("it sends something other than images");
    let (Some(width), Some(height)) = (number(&header[1]), number(&header[2])) else {
        return Err(other());
    };
    if header[0] != "P6" || header[3] != "255" {
        return Err(other());
    }
    check_size(width, height)?;
    let bytes = 3 * pixels(width, height);
    let what = format!("{count} frames of {width} x {height} pixels");
    check_memory(&what, bytes.saturating_mul(count as u64), length)?;
    let mut image = vec![0; bytes as usize];
    match stream.read_exact(&mut image) {
        Ok(()) => Ok(RgbImage::from_raw(width, height, image)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
