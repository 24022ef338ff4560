//! The pictures that an evaluation looks at: folders, tar shards and Parquet tables, one after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use sha2::{Digest, Sha256};

use super::record::{Identity, hex};
use crate::{
    Error, Result,
    data::{
        formats::{
            Bad,
            archive::is_metadata,
            pictures::{self, Class, IMAGES, PictureFile, PictureFiles},
        },
        pattern,
    },
    media::{self, Picture},
};

/// Folders in folders at most; links can go in a circle.
const DEEPEST: usize = 32;

/// Pictures on disk, in a fixed order:
///
/// - a folder: its image files, those of its folders too, sorted by path. A picture's class is the folder that it lies
///   in (ImageNet: `n01440764/ILSVRC2012_val_00000293.JPEG`), if that is not the folder itself
/// - `.tar`, WebDataset: its images; a class is the number or name in the `.cls` file of the same name, otherwise the
///   folder
/// - `.parquet`, as the Hugging Face Hub has them: the column `image`; a class is the column `label`
/// - a pattern such as `imagenet-val/{00..63}.tar`, or a folder of tar or Parquet files: one after the other
#[derive(Debug)]
pub struct ImageSet {
    name: String,
    files: Vec<Entry>,
}

#[derive(Debug)]
enum Entry {
    Image {
        path: PathBuf,
        id: String,
        class: Option<Class>,
    },
    Tar(PathBuf),
    Table(PathBuf),
}

/// Which picture of a set it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageId {
    /// The path in the set's folder; of an archive its file name and the name in it, of a table its file name and the
    /// row: the same in every run.
    pub id: String,
    pub class: Option<Class>,
}

/// What a set turned out to hold.
#[derive(Debug)]
pub struct ImageSetSummary {
    /// By its content: SHA-256 over `id NUL SHA-256 of the file's content` of each picture in order, decodable or not.
    /// `n` counts those that were decoded.
    pub identity: Identity,
    /// How many were left out, for each reason.
    pub skipped: BTreeMap<String, usize>,
}

impl ImageSet {
    /// Finds the files; they are opened later.
    ///
    /// A usage error when nothing is there, or no picture.
    pub fn open(path: &str) -> Result<Self> {
        let mut files = Vec::new();
        for place in pattern::expand(path)? {
            if place.is_dir() {
                walk(&place, &place, 0, &mut files)?;
            } else {
                files.push(entry(&place, &place).ok_or_else(|| {
                    Error::usage(format!(
                        "{}: give a folder of images, .tar shards or .parquet tables",
                        place.display()
                    ))
                })?);
            }
        }
        if files.is_empty() {
            return Err(Error::usage(format!(
                "{path}: no images here (looked for {}, .tar and .parquet)",
                IMAGES.join(", ")
            )));
        }
        Ok(Self {
            name: path.into(),
            files,
        })
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of pictures, where it is known before they are read.
    pub fn count(&self) -> Option<usize> {
        let images = self
            .files
            .iter()
            .all(|file| matches!(file, Entry::Image { .. }));
        images.then_some(self.files.len())
    }

    /// The names of the folders that its image files lie in, which are their classes; nothing is known of shards and
    /// tables before they are read.
    pub fn folders(&self) -> BTreeSet<String> {
        let class = |file: &Entry| match file {
            Entry::Image {
                class: Some(Class::Name(name)),
                ..
            } => Some(name.clone()),
            _ => None,
        };
        self.files.iter().filter_map(class).collect()
    }

    /// Decodes the pictures, `prepare`s them and hands them over in order, `batch` at a time and fewer where some cannot
    /// be decoded or prepared: these are left out and counted. While `each` works on one batch, the next is made ready
    /// on `threads` other threads.
    ///
    /// Ends with the first error of `each`.
    pub fn for_each_batch<T: Send>(
        self,
        batch: usize,
        threads: usize,
        prepare: impl Fn(&ImageId, Picture) -> Result<T> + Sync,
        mut each: impl FnMut(Vec<(ImageId, T)>) -> Result<()>,
    ) -> Result<ImageSetSummary> {
        let mut files = self.files.into_iter().flat_map(Entry::pictures);
        let mut hash = Sha256::new();
        let (mut n, mut skipped) = (0, BTreeMap::new());
        let prepare = &prepare;
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(1);
            scope.spawn(move || {
                loop {
                    let read: Vec<_> = files.by_ref().take(batch.max(1)).collect();
                    // An error when nobody wants more.
                    if read.is_empty() || sender.send(decode(read, threads, prepare)).is_err() {
                        return;
                    }
                }
            });
            for decoded in receiver {
                let mut ready = Vec::new();
                for one in decoded {
                    if let Some((image, digest)) = &one.image {
                        hash.update(&image.id);
                        hash.update([0]);
                        hash.update(digest);
                    }
                    match (one.image, one.outcome) {
                        (Some((image, _)), Ok(value)) => ready.push((image, value)),
                        (_, outcome) => {
                            let reason = outcome.err().map(|error| error.to_string());
                            *skipped.entry(reason.unwrap_or_default()).or_insert(0) += 1;
                        }
                    }
                }
                n += ready.len();
                if !ready.is_empty() {
                    each(ready)?;
                }
            }
            Ok(())
        })?;
        Ok(ImageSetSummary {
            identity: Identity {
                name: self.name,
                sha256: hex(hash),
                n: Some(n),
            },
            skipped,
        })
    }
}

/// A picture after decoding.
struct Decoded<T> {
    /// Which it is, with the SHA-256 of its file; None where it could not even be read.
    image: Option<(ImageId, [u8; 32])>,
    outcome: Result<T>,
}

/// Decodes and prepares the files on so many threads.
fn decode<T: Send>(
    mut files: Vec<std::result::Result<PictureFile, Bad>>,
    threads: usize,
    prepare: &(impl Fn(&ImageId, Picture) -> Result<T> + Sync),
) -> Vec<Decoded<T>> {
    let one = |file| match file {
        Ok(PictureFile { id, class, content }) => {
            let image = ImageId { id, class };
            let outcome = media::decode(&content).and_then(|picture| prepare(&image, picture));
            Decoded {
                image: Some((image, Sha256::digest(&content).into())),
                outcome,
            }
        }
        Err(Bad { reason, .. }) => Decoded {
            image: None,
            outcome: Err(Error::failed(reason)),
        },
    };
    let each = files.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        while !files.is_empty() {
            let rest = files.split_off(each.min(files.len()));
            let part = std::mem::replace(&mut files, rest);
            workers.push(scope.spawn(move || part.into_iter().map(one).collect::<Vec<_>>()));
        }
        let decoded = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(decoded) => decoded,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        decoded.collect()
    })
}

impl Entry {
    /// What is in the file, each read when its turn comes.
    fn pictures(self) -> PictureFiles {
        let failed = |path: &Path, error: Error| -> PictureFiles {
            let key = path.display().to_string();
            let reason = error.to_string();
            Box::new(std::iter::once(Err(Bad { key, reason })))
        };
        match self {
            Self::Image { path, id, class } => Box::new(std::iter::once_with(move || {
                match media::read_file(&path) {
                    Ok(content) => Ok(PictureFile { id, class, content }),
                    Err(error) => Err(Bad {
                        reason: error.to_string(),
                        key: id,
                    }),
                }
            })),
            Self::Tar(path) => match pictures::of_tar(&path) {
                Ok(files) => of_file(&path, files),
                Err(error) => failed(&path, error),
            },
            Self::Table(path) => match pictures::of_table(&path) {
                Ok(files) => of_file(&path, files),
                Err(error) => failed(&path, error),
            },
        }
    }
}

/// The pictures of a file with its name in theirs: those of several shards may have the same.
fn of_file(path: &Path, files: PictureFiles) -> PictureFiles {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    Box::new(files.map(move |file| {
        let file = file?;
        Ok(PictureFile {
            id: format!("{name}/{}", file.id),
            ..file
        })
    }))
}

/// What a file of a set is, by its ending; None if it is none of these.
fn entry(root: &Path, path: &Path) -> Option<Entry> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    match ending.as_str() {
        "tar" => Some(Entry::Tar(path.into())),
        "parquet" => Some(Entry::Table(path.into())),
        ending if IMAGES.contains(&ending) => {
            let inside = path.strip_prefix(root).unwrap_or(path);
            let parts: Vec<_> = (inside.iter()).map(|part| part.to_string_lossy()).collect();
            let class = parts.iter().rev().nth(1);
            Some(Entry::Image {
                path: path.into(),
                id: if parts.is_empty() {
                    path.file_name()?.to_string_lossy().into_owned()
                } else {
                    parts.join("/")
                },
                class: class.map(|class| Class::Name(class.to_string())),
            })
        }
        _ => None,
    }
}

/// Adds the files of a folder and of the folders in it, sorted by name.
fn walk(root: &Path, folder: &Path, depth: usize, files: &mut Vec<Entry>) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::invalid(
            folder,
            format!("more than {DEEPEST} folders in folders: does a link lead back?"),
        ));
    }
    let entries =
        fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut paths: Vec<PathBuf> = (entries.map_err(Error::io(folder))?.iter())
        .map(|entry| entry.path())
        .filter(|path| !is_metadata(&path.to_string_lossy()))
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(root, &path, depth + 1, files)?;
        } else {
            files.extend(entry(root, &path));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
