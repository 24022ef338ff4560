//! One file inside a zip archive, unpacked as it is read.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::archive::is_metadata;
use crate::{Error, Result};

/// No shard is larger when unpacked.
const LARGEST: u64 = 16 << 30;

/// The first file of the archive whose name has this ending.
///
/// Errors when there is none, or it is packed in another way than deflate.
pub(super) fn open(path: &Path, ending: &str) -> Result<BufReader<Box<dyn Read + Send>>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let invalid = |reason: String| Error::invalid(path, reason);
    let damaged = |error: zip::result::ZipError| invalid(error.to_string());
    let mut archive = ZipArchive::new(file).map_err(damaged)?;
    let names = archive.file_names().enumerate();
    let mut readable = names.filter_map(|(index, name)| Some((index, name.ok()?.into_owned())));
    let found = readable.find(|(_, name)| name.ends_with(ending) && !is_metadata(name));
    drop(readable);
    let (index, found) =
        found.ok_or_else(|| invalid(format!("holds no file that ends in {ending}")))?;
    let (start, length, packed) = {
        let member = archive.by_index_raw(index).map_err(damaged)?;
        let start = member.data_start();
        let start = start.ok_or_else(|| invalid(format!("{found} cannot be found in it")))?;
        if member.encrypted() {
            return Err(invalid(format!("{found} is encrypted")));
        }
        (start, member.compressed_size(), member.compression())
    };
    let mut file = archive.into_inner();
    file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
    let content = file.take(length);
    let unpacked: Box<dyn Read + Send> = match packed {
        CompressionMethod::Stored => Box::new(content),
        CompressionMethod::Deflated => Box::new(DeflateDecoder::new(BufReader::new(content))),
        other => {
            return Err(invalid(format!(
                "{found} is packed with {other}, not with deflate"
            )));
        }
    };
    let left = LARGEST;
    let limited: Box<dyn Read + Send> = Box::new(Limited { unpacked, left });
    Ok(BufReader::new(limited))
}

/// Ends with an error after so many bytes.
struct Limited {
    unpacked: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacked.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| {
            io::Error::other(format!("it unpacks to more than {} GiB", LARGEST >> 30))
        })?;
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use std::io::{Cursor, Write};

    use super::*;
    use crate::data::formats::json::Entries;

    /// A zip archive of files by name.
    pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            let options = zip::write::SimpleFileOptions::default();
            let options = options.compression_method(CompressionMethod::Deflated);
            zip.start_file(*name, options).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn opened(zip: &[u8]) -> Result<BufReader<Box<dyn Read + Send>>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), zip).unwrap();
        open(file.path(), ".jsonl")
    }

    #[test]
    fn the_file_is_unpacked_as_it_is_read() {
        let files: [(&str, &[u8]); 2] = [("README", b"x"), ("a/b.jsonl", b"{}\n{}")];
        let mut text = String::new();
        opened(&zip(&files))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "{}\n{}");
        let error = opened(&zip(&files[..1])).err().unwrap().to_string();
        assert!(error.contains("ends in .jsonl"), "{error}");
        let error = opened(b"no archive").err().unwrap().to_string();
        assert!(!error.is_empty());
        // What is damaged inside costs the rest of the shard.
        let mut damaged = zip(&[("a.jsonl", "[1, 2, 3]\n".repeat(99).as_bytes())]);
        damaged[50] ^= 255;
        if let Ok(reader) = opened(&damaged) {
            let entries = Entries::new(reader).map(|entries| entries.count());
            assert!(entries.unwrap_or(0) < 101);
        }
    }

    /// A line of a hundred mebibytes in an archive of a hundred kilobytes.
    #[test]
    fn a_small_archive_does_not_become_a_large_line() {
        let line = vec![b'"'; 100 << 20];
        let bomb = zip(&[("a.jsonl", &line)]);
        assert!(bomb.len() < 1 << 20);
        let entries: Vec<_> = Entries::new(opened(&bomb).unwrap()).unwrap().collect();
        let (_, entry) = &entries[0];
        assert!(entry.as_ref().unwrap_err().contains("longer than 64 MiB"));
        // The limit on the whole is a count of what was read.
        let unpacked = Box::new(io::repeat(b' '));
        let mut limited = Limited { unpacked, left: 10 };
        let error = io::copy(&mut limited, &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("unpacks to more"));
    }
}
