//! The container of WebP files (RFC 9649): chunks of a name and a length.

/// A chunk of a file.
pub(super) struct Chunk<'a> {
    pub name: [u8; 4],
    /// Its content, less than it says where the file is cut short.
    pub content: &'a [u8],
    pub whole: bool,
}

/// The chunks of a WebP file, if it is one.
pub(super) fn chunks(file: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let is_webp = file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP");
    inside(if is_webp { &file[12..] } else { &[] })
}

/// The chunks that stand one after the other, each padded to an even length.
pub(super) fn inside(mut bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    std::iter::from_fn(move || {
        let (name, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let content = rest.get(..length).unwrap_or(rest);
        bytes = rest
            .get(length.saturating_add(length % 2)..)
            .unwrap_or_default();
        Some(Chunk {
            name: *name,
            content,
            whole: content.len() == length,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_no_longer_than_the_file() {
        let file = b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0EXIF\xff\xff\xff\xffxy";
        let chunks: Vec<_> = chunks(file)
            .map(|chunk| (chunk.content, chunk.whole))
            .collect();
        assert_eq!(chunks, [(&b"abc"[..], true), (b"xy", false)]);
        assert_eq!(super::chunks(b"RIFF").count(), 0);
    }
}
