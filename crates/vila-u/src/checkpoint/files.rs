//! Where the files of a checkpoint are: a folder, or a list compiled into the program.
//! Everything that reads a checkpoint reads through [`Files`], so there is one code path for both.

use std::{
    fs::{self, File},
    io::Read,
    ops::Deref,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use crate::{Error, Result};

/// Files compiled into the program: path inside the checkpoint (with `/`), contents.
pub type Embedded = &'static [(&'static str, &'static [u8])];

/// No configuration or tokenizer file is larger; more is refused before it is read.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// A folder of a checkpoint, on disk or embedded.
#[derive(Clone, Debug)]
pub struct Files {
    root: Root,
    /// The folder inside the root, `""` or `"llm/"`.
    prefix: String,
}

#[derive(Clone, Debug)]
enum Root {
    Folder(PathBuf),
    Embedded { name: &'static str, files: Embedded },
}

impl Files {
    /// The folder at `path`; it need not exist, reading then says so.
    pub fn folder(path: impl AsRef<Path>) -> Self {
        Self {
            root: Root::Folder(path.as_ref().to_path_buf()),
            prefix: String::new(),
        }
    }

    /// Files compiled into the program; `name` is what messages call them.
    pub fn embedded(name: &'static str, files: Embedded) -> Self {
        Self {
            root: Root::Embedded { name, files },
            prefix: String::new(),
        }
    }

    /// The folder `name` inside this one. `name` comes from us or from [`plain`], never straight
    /// from a file.
    pub fn join(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            prefix: format!("{}{name}/", self.prefix),
        }
    }

    /// What messages call the file `name` of this folder, and its path where it is on disk.
    pub fn path(&self, name: &str) -> PathBuf {
        let inside = format!("{}{name}", self.prefix);
        match &self.root {
            Root::Folder(folder) => folder.join(inside),
            Root::Embedded { name, .. } => Path::new(name).join(inside),
        }
    }

    /// The same as [`Files::path`], for what only reads from disk; `None` where it is embedded.
    pub fn on_disk(&self, name: &str) -> Option<PathBuf> {
        matches!(self.root, Root::Folder(_)).then(|| self.path(name))
    }

    pub fn contains(&self, name: &str) -> bool {
        match &self.root {
            Root::Folder(_) => self.path(name).is_file(),
            Root::Embedded { .. } => self.find(name).is_some(),
        }
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        let Root::Embedded { files, .. } = &self.root else {
            return None;
        };
        let inside = format!("{}{name}", self.prefix);
        let (_, contents) = files.iter().find(|(path, _)| *path == inside)?;
        Some(contents)
    }

    /// A whole configuration or tokenizer file (at most 64 MiB).
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        match &self.root {
            Root::Folder(_) => {
                let file = File::open(&path).map_err(Error::io(&path))?;
                let mut contents = Vec::new();
                file.take(MAX_SMALL_FILE + 1)
                    .read_to_end(&mut contents)
                    .map_err(Error::io(&path))?;
                if contents.len() as u64 > MAX_SMALL_FILE {
                    return Err(Error::invalid(path, "larger than 64 MiB"));
                }
                Ok(contents)
            }
            Root::Embedded { .. } => Ok(self.bytes(name)?.to_vec()),
        }
    }

    /// The bytes of a weights file, mapped into memory rather than read.
    pub fn bytes(&self, name: &str) -> Result<Bytes> {
        let path = self.path(name);
        match &self.root {
            Root::Folder(_) => {
                let file = File::open(&path).map_err(Error::io(&path))?;
                let length = file.metadata().map_err(Error::io(&path))?.len();
                if length == 0 {
                    return Ok(Bytes::Static(&[]));
                }
                // SAFETY: the mapping is read-only and only ever read as bytes. As with every
                // memory-mapped file, another program truncating it meanwhile stops this one.
                let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
                Ok(Bytes::Mapped(Arc::new(map)))
            }
            Root::Embedded { .. } => self.find(name).map(Bytes::Static).ok_or_else(|| {
                Error::io(&path)(std::io::Error::from(std::io::ErrorKind::NotFound))
            }),
        }
    }

    /// Copies the file `name` to `target`.
    pub fn copy(&self, name: &str, target: &Path) -> Result<()> {
        match self.on_disk(name) {
            Some(path) => {
                fs::copy(&path, target).map_err(Error::io(&path))?;
                Ok(())
            }
            None => fs::write(target, self.bytes(name)?).map_err(Error::io(target)),
        }
    }
}

/// A path named inside an untrusted file, if it stays in the folder it is relative to:
/// not absolute, no `..`, not empty.
pub fn plain(path: &str) -> Option<&str> {
    let inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    inside.then_some(path)
}

/// The contents of a file, cheap to clone.
#[derive(Clone, Debug)]
pub enum Bytes {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
