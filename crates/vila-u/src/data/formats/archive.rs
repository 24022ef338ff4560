//! The files inside a tar file, read one by one, or by name. Nothing is ever unpacked.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use tar::Archive;

use super::Bad;
use crate::{Error, Result, data::record::LARGEST_IMAGE, file_kind};

/// Tar files consist of blocks of so many bytes.
const BLOCK: u64 = 512;
/// Files of one archive that are found by name.
const MOST_FILES: usize = 10_000_000;

/// One file of an archive.
pub(super) struct Member {
    /// Folder and name up to the first dot.
    pub key: String,
    /// What follows the dot, in lower case.
    pub ending: String,
    /// The reason if it is too large to be read.
    pub content: std::result::Result<Vec<u8>, String>,
}

/// Whether a file of an archive is not one of its author's: macOS and Windows put such beside them.
pub(crate) fn is_metadata(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = path.split('/').any(|folder| folder == "__MACOSX");
    folder || name.starts_with("._") || matches!(name, ".DS_Store" | "Thumbs.db" | "desktop.ini")
}

/// The files of an archive, each read when its turn comes. After an error nothing follows.
pub(super) struct Members {
    file: BufReader<File>,
    name: String,
    ended: bool,
}

/// Where a file lies in the archive.
struct Header {
    path: String,
    regular: bool,
    size: u64,
}

impl Members {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let head = file.fill_buf().map_err(Error::io(path))?;
        if let Some(what) = file_kind::mistaken(head) {
            return Err(Error::invalid(path, format!("no tar archive: {what}")));
        }
        Ok(Self {
            file,
            name: name.to_string_lossy().into_owned(),
            ended: false,
        })
    }

    /// The next header; its content follows.
    fn header(&mut self) -> std::io::Result<Option<Header>> {
        // An archive of its own for each file, since its entries would borrow the archive: it begins at
        // a header, and knows about the names before it that are too long for one.
        let mut archive = Archive::new(&mut self.file);
        let Some(entry) = archive.entries()?.next().transpose()? else {
            return Ok(None);
        };
        let kind = entry.header().entry_type();
        Ok(Some(Header {
            path: entry.path()?.to_string_lossy().into_owned(),
            regular: kind.is_file() || kind.is_contiguous(),
            size: if kind.is_gnu_sparse() {
                entry.header().entry_size()?
            } else {
                entry.size()
            },
        }))
    }

    /// Goes on to the next header, from so many bytes into a content of `size`.
    fn pass(&mut self, size: u64, read: u64) -> std::io::Result<()> {
        let end = size.checked_next_multiple_of(BLOCK);
        let left = end.and_then(|end| i64::try_from(end - read).ok());
        let left = left.ok_or_else(|| std::io::Error::other("a file of an impossible size"))?;
        self.file.seek_relative(left)
    }

    fn member(&mut self) -> std::io::Result<Option<Member>> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            if !header.regular || is_metadata(&header.path) {
                self.pass(header.size, 0)?;
                continue;
            }
            let (folder, name) = match header.path.rsplit_once('/') {
                Some((folder, name)) => (format!("{folder}/"), name),
                None => (String::new(), header.path.as_str()),
            };
            let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
            let mut content = Err(format!("{name} is larger than {} MiB", LARGEST_IMAGE >> 20));
            let mut read = 0;
            if header.size <= LARGEST_IMAGE {
                content = Ok(self.content(header.size)?);
                read = header.size;
            }
            self.pass(header.size, read)?;
            return Ok(Some(Member {
                key: format!("{folder}{stem}"),
                ending: ending.to_ascii_lowercase(),
                content,
            }));
        }
    }

    fn content(&mut self, size: u64) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        (&mut self.file).take(size).read_to_end(&mut content)?;
        if content.len() as u64 == size {
            Ok(content)
        } else {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Iterator for Members {
    type Item = std::result::Result<Member, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let member = self.member().map_err(|error| Bad {
            key: self.name.clone(),
            reason: format!("the rest of this archive cannot be read: {error}"),
        });
        self.ended = !matches!(member, Ok(Some(_)));
        member.transpose()
    }
}

/// The files of an archive by name.
pub(super) struct Index {
    members: Members,
    /// Offset and size.
    places: HashMap<String, (u64, u64)>,
}

impl Index {
    /// Reads the names, not the contents.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut members = Members::open(path)?;
        let mut places = HashMap::new();
        let mut find = || -> std::io::Result<()> {
            while let Some(header) = members.header()? {
                let place = (members.file.stream_position()?, header.size);
                if header.regular && places.len() < MOST_FILES {
                    let name = header.path.trim_start_matches("./");
                    places.insert(name.to_string(), place);
                }
                members.pass(header.size, 0)?;
            }
            Ok(())
        };
        find().map_err(Error::io(path))?;
        Ok(Self { members, places })
    }

    /// The content of a file, or why there is none.
    pub(super) fn read(&mut self, name: &str) -> std::result::Result<Vec<u8>, String> {
        let archive = &self.members.name;
        let Some((offset, size)) = self.places.get(name).copied() else {
            return Err(format!("{name} is not in {archive}"));
        };
        if size > LARGEST_IMAGE {
            return Err(format!("{name} is larger than {} MiB", LARGEST_IMAGE >> 20));
        }
        let read = self.members.file.seek(SeekFrom::Start(offset));
        read.and_then(|_| self.members.content(size))
            .map_err(|error| format!("{name} cannot be read: {error}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;

    /// An archive of files by name.
    pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn files_are_read_in_order_and_by_name() {
        let long = format!("{}.jpg", "long".repeat(60));
        let content = vec![7; 1300];
        let file = tempfile::NamedTempFile::new().unwrap();
        let files: [(&str, &[u8]); 3] = [("a/b.tar.gz", b""), (&long, &content), ("c.txt", b"c")];
        std::fs::write(file.path(), tar(&files)).unwrap();
        let members: Vec<Member> = Members::open(file.path())
            .unwrap()
            .map(|member| member.ok().unwrap())
            .collect();
        let names: Vec<_> = members
            .iter()
            .map(|member| (member.key.as_str(), member.ending.as_str()))
            .collect();
        let stem = "long".repeat(60);
        assert_eq!(names, [("a/b", "tar.gz"), (&stem, "jpg"), ("c", "txt")]);
        assert_eq!(members[1].content.as_ref().unwrap(), &content);

        let mut index = Index::open(file.path()).unwrap();
        assert_eq!(index.read("c.txt").unwrap(), b"c");
        assert_eq!(index.read(&long).unwrap(), content);
        assert!(index.read("d").unwrap_err().contains("d is not in"));
    }

    #[test]
    fn what_systems_put_beside_files_is_passed_over() {
        let files: [(&str, &[u8]); 6] = [
            ("._1.jpg", b"\0\x05\x16\x07"),
            ("a/._1.txt", b"\0\x05\x16\x07"),
            ("__MACOSX/1.jpg", b"x"),
            (".DS_Store", b"x"),
            ("a/Thumbs.db", b"x"),
            ("1.jpg", b"A"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tar(&files)).unwrap();
        let keys = Members::open(file.path()).unwrap();
        let keys: Vec<String> = keys.map(|member| member.ok().unwrap().key).collect();
        assert_eq!(keys, ["1"]);
    }

    #[test]
    fn other_files_of_that_name_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (head, expected) in [
            (&b"\x1f\x8b\x08"[..], "gzip"),
            (b"", "empty"),
            (b"PK\x03\x04", "zip"),
        ] {
            std::fs::write(file.path(), head).unwrap();
            let error = Members::open(file.path()).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn large_files_are_passed_over_unread() {
        let mut shard = tar(&[("a.jpg", b"a"), ("b.jpg", b"b")]);
        // The size of the first, in octal, as large as fits; the checksum is not looked at before it.
        let mut header = tar::Header::new_gnu();
        header.set_path("a.jpg").unwrap();
        header.set_size(1 << 32);
        header.set_cksum();
        shard[..512].copy_from_slice(header.as_bytes());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), shard).unwrap();
        let mut members = Members::open(file.path()).unwrap();
        let first = members.next().unwrap().ok().unwrap();
        assert!(first.content.unwrap_err().contains("64 MiB"));
        assert!(members.next().is_none());
    }
}
