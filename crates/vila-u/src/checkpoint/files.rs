//! Where the files of a checkpoint are: a folder, or in memory (compiled into the program, or made by
//! it). Everything that reads a checkpoint reads through [`Files`], so there is one code path for all.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use crate::{Error, Result, file_kind};

/// No configuration or tokenizer file is larger; more is refused before it is read.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// A folder of a checkpoint, on disk or in memory.
#[derive(Clone, Debug)]
pub struct Files {
    root: Root,
    /// The folder inside the root, `""` or `"llm/"`.
    prefix: String,
}

#[derive(Clone, Debug)]
enum Root {
    Folder(PathBuf),
    Memory {
        name: &'static str,
        files: Arc<BTreeMap<String, Bytes>>,
    },
}

impl Files {
    /// The folder at `path`; it need not exist, reading then says so.
    pub fn folder(path: impl AsRef<Path>) -> Self {
        Self {
            root: Root::Folder(path.as_ref().to_path_buf()),
            prefix: String::new(),
        }
    }

    /// Files in memory: paths inside the checkpoint (with `/`) and contents. `name` is what messages
    /// call the checkpoint.
    pub fn memory(name: &'static str, files: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self {
            root: Root::Memory {
                name,
                files: Arc::new(files.into_iter().collect()),
            },
            prefix: String::new(),
        }
    }

    /// The folder `name` inside this one. `name` comes from us or from `safe_path::relative`, never straight
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
            Root::Memory { name, .. } => Path::new(name).join(inside),
        }
    }

    /// The same as [`Files::path`], for what only reads from disk; `None` for files in memory.
    pub fn on_disk(&self, name: &str) -> Option<PathBuf> {
        matches!(self.root, Root::Folder(_)).then(|| self.path(name))
    }

    pub fn contains(&self, name: &str) -> bool {
        match &self.root {
            Root::Folder(_) => self.path(name).is_file(),
            Root::Memory { files, .. } => files.contains_key(&format!("{}{name}", self.prefix)),
        }
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
                match file_kind::mistaken(&contents) {
                    Some(what) => Err(Error::invalid(path, what)),
                    None => Ok(contents),
                }
            }
            Root::Memory { .. } => Ok(self.bytes(name)?.to_vec()),
        }
    }

    /// As [`Files::read`]; `None` if there is no such file.
    pub fn read_optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if self.contains(name) {
            self.read(name).map(Some)
        } else {
            Ok(None)
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
            Root::Memory { files, .. } => files
                .get(&format!("{}{name}", self.prefix))
                .cloned()
                .ok_or_else(|| Error::io(&path)(io::ErrorKind::NotFound.into())),
        }
    }

    /// The names of the files directly in this folder (not in folders inside it), sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match &self.root {
            Root::Folder(_) => {
                let folder = self.path("");
                fs::read_dir(&folder)
                    .map_err(Error::io(&folder))?
                    .filter_map(|entry| entry.ok())
                    .filter(|entry| entry.path().is_file())
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect()
            }
            Root::Memory { files, .. } => files
                .keys()
                .filter_map(|path| path.strip_prefix(&self.prefix))
                .filter(|name| !name.contains('/'))
                .map(String::from)
                .collect(),
        };
        names.sort();
        Ok(names)
    }
}

/// The contents of a file, cheap to clone.
#[derive(Clone, Debug)]
pub enum Bytes {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(Arc::new(bytes))
    }
}
