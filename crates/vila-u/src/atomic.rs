//! Files and folders that are whole or not there: written under a temporary name beside their place,
//! brought to disk, then renamed. A crash or a full disk leaves what was there before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use crate::{Error, Result};

/// How temporary names begin; see [`clean`].
const FILE: &str = ".vila-u-";
const FOLDER: &str = ".saving-";

/// Writes `bytes` to `path`, replacing what was there, or leaves everything as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    let attempt = || {
        let mut builder = tempfile::Builder::new();
        // Opened and written as any other new file: as readable, and without the temporary name in errors.
        let file = builder
            .prefix(FILE)
            .make_in(folder, |path| File::create_new(path))?;
        file.as_file().write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_entries(folder)
    };
    attempt().map_err(Error::io(path))
}

/// Lets `fill` fill a new folder, which then takes the place of what is at `dir`, or leaves everything
/// as it was. Folders above it are made.
pub fn folder(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = parent(dir);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    // Removed with everything in it when this function ends.
    let temporary = tempfile::Builder::new()
        .prefix(FOLDER)
        .tempdir_in(parent)
        // Its kind alone: the whole error names the temporary folder.
        .map_err(|error| Error::io(parent)(error.kind().into()))?;
    let new = (temporary.path()).join(dir.file_name().unwrap_or("new".as_ref()));
    fs::create_dir(&new).map_err(Error::io(&new))?;
    fill(&new)?;
    let put = || {
        sync(&new)?;
        if dir.exists() {
            fs::rename(dir, temporary.path().join(".old"))?;
        }
        fs::rename(&new, dir)?;
        sync_entries(parent)
    };
    put().map_err(Error::io(dir))
}

/// Where that will lie which is being written at `path`, in a folder that [`folder`] fills or anywhere else.
pub fn final_path(path: &Path) -> PathBuf {
    let temporary = |part: &Component| {
        let name = part.as_os_str().as_encoded_bytes();
        name.starts_with(FOLDER.as_bytes())
    };
    path.components().filter(|part| !temporary(part)).collect()
}

/// Removes what a program that was killed left half-written in `folder`. Nothing else may be writing there.
pub fn clean(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let starts = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        let removed = match path.is_dir() {
            true if starts(FOLDER) => fs::remove_dir_all(&path),
            false if starts(FILE) => fs::remove_file(&path),
            _ => Ok(()),
        };
        removed.map_err(Error::io(&path))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Brings a folder and all in it to disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?
        } else {
            OpenOptions::new().write(true).open(&path)?.sync_all()?
        }
    }
    sync_entries(folder)
}

/// Brings to disk which files a folder has. Not every file system can be asked to.
fn sync_entries(folder: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("missing/a.bin");
        let error = write(&missing, b"x").unwrap_err().to_string();
        assert!(error.starts_with(missing.to_str().unwrap()), "{error}");
        assert!(!error.contains(FILE), "{error}");
    }

    #[test]
    fn folders_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/b");
        let fill = |text: &'static str| {
            move |new: &Path| {
                fs::create_dir(new.join("in")).unwrap();
                fs::write(new.join("in/x"), text).map_err(Error::io(new))
            }
        };
        super::folder(&target, fill("one")).unwrap();
        super::folder(&target, fill("two")).unwrap();
        super::folder(&target, |new| {
            assert!(new != target && super::final_path(new) == target);
            let inner = new.join("in");
            super::folder(&inner, |deeper| {
                assert_eq!(super::final_path(&deeper.join("x")), target.join("in/x"));
                fs::write(deeper.join("x"), "two").map_err(Error::io(deeper))
            })
        })
        .unwrap();
        let failed = super::folder(&target, |new| {
            fs::write(new.join("half"), "x").unwrap();
            Err(Error::failed("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(target.join("in/x")).unwrap(), b"two");
        assert!(!target.join("half").exists());
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn only_what_is_half_written_is_cleaned_away() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at(".saving-abc/new")).unwrap();
        fs::create_dir_all(at("step-1")).unwrap();
        for file in [".vila-u-abc", ".saving-abc/new/x", ".hidden"] {
            fs::write(at(file), "x").unwrap();
        }
        clean(folder.path()).unwrap();
        clean(&at("none")).unwrap();
        assert!(at("step-1").is_dir() && at(".hidden").is_file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
