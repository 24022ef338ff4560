//! What a file is that was taken for another: downloads often leave something else under the right name.

use std::io::{self, Read};

/// Bytes that tell.
const HEAD: u64 = 64;

/// What a file is and what to do about it, where that is a usual mistake.
pub(crate) fn mistaken_file(file: &mut impl Read) -> io::Result<Option<&'static str>> {
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head)?;
    Ok(mistaken(&head))
}

/// What the first bytes of a file are and what to do about it, where they are a usual mistake.
pub(crate) fn mistaken(head: &[u8]) -> Option<&'static str> {
    let text = head.trim_ascii_start();
    let begins = |start: &str| {
        let bytes = text.get(..start.len());
        bytes.is_some_and(|bytes| bytes.eq_ignore_ascii_case(start.as_bytes()))
    };
    if head.is_empty() {
        Some("the file is empty: download it again")
    } else if head.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    } else if begins("<!doctype html") || begins("<html") {
        Some("a web page, perhaps an error message saved as this file: download it again")
    } else if begins("<?xml") {
        Some("an XML text, perhaps an error message saved as this file: download it again")
    } else if head.starts_with(b"\x1f\x8b") {
        Some("packed with gzip: unpack it first (`gunzip`)")
    } else if head.starts_with(b"\xfd7zXZ\0") {
        Some("packed with xz: unpack it first (`unxz`)")
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Some("packed with zstd: unpack it first (`unzstd`)")
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        Some("a zip archive: unpack it first (`unzip`)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_mistakes_are_named() {
        for (head, expected) in [
            (&b""[..], "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "git lfs pull",
            ),
            (b"\n <!DOCTYPE HTML><html>", "web page"),
            (b"<html><body>404", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "XML"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"PK\x03\x04\x14", "zip archive"),
        ] {
            assert!(mistaken(head).is_some_and(|what| what.contains(expected)));
        }
        for head in [&b"\x89PNG\r\n"[..], b"{\"a\": 1}", b"PAR1", b"<"] {
            assert_eq!(mistaken(head), None);
        }
    }
}
