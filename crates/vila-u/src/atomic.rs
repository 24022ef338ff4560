//! Files and folders that are whole or not there: written under a temporary name beside their place,
//! brought to disk, then renamed. A crash or a full disk leaves what was there before.
//!
//! A link is followed, and what it leads to replaced. What is no regular file (a device, a pipe, standard output) is
//! written to as it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use crate::{Error, Result};

/// How temporary names begin; see [`clean`].
const FILE: &str = ".vila-u-";
const FOLDER: &str = ".saving-";

/// Links that lead to each other at most; more go in a circle.
const MOST_LINKS: usize = 40;

/// Writes `bytes` to `path`, or leaves everything as it was. A file that is replaced keeps its permissions.
///
/// Errors when it may not be written to.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = match target(path).map_err(Error::io(path))? {
        Target::Place(target) => target,
        Target::Stream => {
            let file = OpenOptions::new().write(true).open(path);
            let written = file.and_then(|mut file| file.write_all(bytes));
            return written.map_err(Error::io(path));
        }
    };
    let folder = parent(&target);
    let attempt = || {
        let before = match fs::metadata(&target) {
            Ok(before) if before.permissions().readonly() => {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(before) => Some(before.permissions()),
            Err(_) => None,
        };
        let mut builder = tempfile::Builder::new();
        // Opened and written as any other new file: as readable, and without the temporary name in errors.
        let file = builder
            .prefix(FILE)
            .make_in(folder, |path| File::create_new(path))?;
        file.as_file().write_all(bytes)?;
        if let Some(permissions) = before {
            file.as_file().set_permissions(permissions)?;
        }
        file.as_file().sync_all()?;
        file.persist(&target)?;
        sync_entries(folder)
    };
    attempt().map_err(Error::io(path))
}

/// What a path leads to.
enum Target {
    /// Where a file is or will be.
    Place(PathBuf),
    /// Something that takes what is written to it.
    Stream,
}

fn target(path: &Path) -> io::Result<Target> {
    let mut place = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&place) {
            Ok(there) if there.is_symlink() => {
                // `/dev/stdout` leads to an open file by a link of no real name.
                if fs::canonicalize(parent(&place)).is_ok_and(|folder| folder.starts_with("/proc"))
                {
                    return Ok(Target::Stream);
                }
                place = parent(&place).join(fs::read_link(&place)?);
            }
            Ok(there) if !there.is_file() && !there.is_dir() => return Ok(Target::Stream),
            _ => return Ok(Target::Place(place)),
        }
    }
    Err(io::Error::other("links that lead in a circle"))
}

/// Lets `fill` fill a new folder, which then takes the place of what is at `dir`, or leaves everything
/// as it was. Folders above it are made.
pub fn folder(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = match target(dir).map_err(Error::io(dir))? {
        Target::Place(place) => place,
        Target::Stream => return Err(Error::invalid(dir, "not a folder")),
    };
    let dir = dir.as_path();
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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("real.bin"), b"one").unwrap();
        fs::set_permissions(at("real.bin"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real.bin", at("link.bin")).unwrap();
        symlink("new.bin", at("dangling.bin")).unwrap();
        write(&at("link.bin"), b"two").unwrap();
        write(&at("dangling.bin"), b"three").unwrap();
        assert_eq!(fs::read(at("real.bin")).unwrap(), b"two");
        assert_eq!(fs::read(at("new.bin")).unwrap(), b"three");
        for link in ["link.bin", "dangling.bin"] {
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink());
        }
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("real.bin"), 0o640);
        fs::set_permissions(at("real.bin"), fs::Permissions::from_mode(0o440)).unwrap();
        let error = write(&at("link.bin"), b"four").unwrap_err().to_string();
        assert!(error.contains("ermission"), "{error}");
        assert_eq!(fs::read(at("real.bin")).unwrap(), b"two");
        for (a, b) in [("a", "b"), ("b", "a")] {
            symlink(b, at(a)).unwrap();
        }
        assert!(
            write(&at("a"), b"x")
                .unwrap_err()
                .to_string()
                .contains("circle")
        );

        fs::create_dir(at("real")).unwrap();
        symlink("real", at("linked")).unwrap();
        super::folder(&at("linked"), |new| {
            fs::write(new.join("x"), "x").map_err(Error::io(new))
        })
        .unwrap();
        assert!(fs::symlink_metadata(at("linked")).unwrap().is_symlink() && at("real/x").is_file());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_written_to() {
        let null = Path::new("/dev/null");
        write(null, b"gone").unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
        // A pipe stays one, and a reader gets what is written.
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            let read = {
                let pipe = pipe.clone();
                std::thread::spawn(move || fs::read(pipe))
            };
            write(&pipe, b"through").unwrap();
            assert_eq!(read.join().unwrap().unwrap(), b"through");
        }
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
