//! JSON objects one after another: a line each, or the elements of one array. Either way one is in
//! memory at a time, however large the file.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{BYTE_ORDER_MARK, Bad, UTF16};
use crate::{Error, Result, file_kind};

/// A longer object is no record.
const LONGEST: usize = 64 << 20;

/// The objects of a file, numbered from 1, each as its bytes or the reason it is none.
pub(crate) struct Entries<R = BufReader<File>> {
    file: R,
    array: bool,
    number: u64,
    ended: bool,
}

impl Entries {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let head = file.fill_buf().map_err(Error::io(path))?;
        match file_kind::mistaken(head) {
            Some(what) if !head.is_empty() => {
                Err(Error::invalid(path, format!("not JSON: {what}")))
            }
            _ => Self::new(file).map_err(Error::io(path)),
        }
    }
}

impl<R: BufRead> Entries<R> {
    /// Errors for text that is not UTF-8.
    pub(super) fn new(mut file: R) -> std::io::Result<Self> {
        skip_byte_order_mark(&mut file)?;
        let array = skip_space(&mut file)? == Some(b'[');
        if array {
            file.consume(1);
        }
        Ok(Self {
            file,
            array,
            number: 0,
            ended: false,
        })
    }

    fn line(&mut self) -> std::io::Result<Option<Entry>> {
        if skip_space(&mut self.file)?.is_none() {
            return Ok(None);
        }
        let mut line = Vec::new();
        let mut limited = (&mut self.file).take(LONGEST as u64);
        limited.read_until(b'\n', &mut line)?;
        let whole = line.len() < LONGEST || line.ends_with(b"\n");
        if !whole {
            self.file.skip_until(b'\n')?;
        }
        Ok(Some(if whole { Ok(line) } else { Err(too_long()) }))
    }

    /// The next element: as many brackets are closed in it as are opened, outside of strings. What
    /// is in it is for the JSON parser to judge.
    fn element(&mut self) -> std::io::Result<Option<Entry>> {
        loop {
            match skip_space(&mut self.file)? {
                Some(b',') => self.file.consume(1),
                Some(b']') => return Ok(None),
                None => {
                    self.ended = true;
                    return Ok(Some(Err("the array does not end".into())));
                }
                Some(_) => break,
            }
        }
        let mut element = Vec::new();
        let (mut depth, mut string, mut escaped) = (0_u32, false, false);
        loop {
            let buffer = self.file.fill_buf()?;
            if buffer.is_empty() {
                self.ended = true;
                return Ok(Some(Err("the file ends in the middle of it".into())));
            }
            let mut end = None;
            for (at, byte) in buffer.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if string => escaped = true,
                    b'"' => string = !string,
                    _ if string => {}
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => depth -= 1,
                    b',' | b']' if depth == 0 => {
                        end = Some(at);
                        break;
                    }
                    _ => {}
                }
            }
            let taken = end.unwrap_or(buffer.len());
            element.extend_from_slice(&buffer[..taken]);
            self.file.consume(taken);
            if element.len() > LONGEST {
                self.ended = true;
                return Ok(Some(Err(too_long())));
            }
            if end.is_some() {
                return Ok(Some(Ok(element)));
            }
        }
    }
}

type Entry = std::result::Result<Vec<u8>, String>;

fn too_long() -> String {
    format!("longer than {} MiB", LONGEST >> 20)
}

impl<R: BufRead> Iterator for Entries<R> {
    type Item = (u64, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = if self.array {
            self.element()
        } else {
            self.line()
        };
        let entry = next.unwrap_or_else(|error| {
            self.ended = true;
            Some(Err(format!("cannot be read: {error}")))
        });
        self.ended |= entry.is_none();
        self.number += 1;
        Some((self.number, entry?))
    }
}

/// Passes over the mark that some programs put before UTF-8; other marks are of text that cannot be read.
fn skip_byte_order_mark(file: &mut impl BufRead) -> std::io::Result<()> {
    match file.fill_buf()?.first().copied() {
        Some(0xef) => file.read_exact(&mut [0; 3]),
        Some(0xfe | 0xff) => Err(std::io::Error::other(UTF16)),
        _ => Ok(()),
    }
}

/// Passes over white space; the byte that follows.
fn skip_space(file: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let space = buffer
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        if let Some(byte) = buffer.get(space).copied() {
            file.consume(space);
            return Ok(Some(byte));
        }
        file.consume(space);
    }
}

/// Each object of a file as a `T`, made a record.
pub(super) fn records<T: DeserializeOwned>(
    path: &Path,
    record: impl Fn(u64, T) -> std::result::Result<super::Record, String> + Send + 'static,
) -> Result<super::Records> {
    Ok(records_of(Entries::open(path)?, record))
}

/// The same of entries that are not in a file of their own.
pub(super) fn records_of<R: BufRead + Send + 'static, T: DeserializeOwned>(
    entries: Entries<R>,
    record: impl Fn(u64, T) -> std::result::Result<super::Record, String> + Send + 'static,
) -> super::Records {
    let parsed = move |(number, entry): (u64, Entry)| {
        let bad = |reason| Bad {
            key: format!("record {number}"),
            reason,
        };
        let bytes = entry.map_err(bad)?;
        let entry = parse(&bytes).map_err(bad)?;
        record(number, entry).map_err(bad)
    };
    Box::new(entries.map(parsed))
}

/// A text, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Texts {
    One(String),
    Many(Vec<String>),
}

impl From<Texts> for Vec<String> {
    fn from(texts: Texts) -> Self {
        match texts {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

/// JSON text as a `T`, or why it is none. `NaN` and infinities, which Python writes, are read as `null`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let parsed = serde_json::from_slice(bytes).or_else(|error| match without_nan(bytes) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(error),
    });
    parsed.map_err(|error| match error.classify() {
        serde_json::error::Category::Data => error.to_string(),
        _ => format!("not JSON: {error}"),
    })
}

/// The text with `null` for each number that JSON has no word for; none if it has none of these.
fn without_nan(text: &[u8]) -> Option<Vec<u8>> {
    const NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut replaced = Vec::with_capacity(text.len());
    let (mut at, mut found, mut string, mut escaped) = (0, false, false, false);
    while let Some(&byte) = text.get(at) {
        let number = NUMBERS.iter().find(|number| text[at..].starts_with(number));
        if let Some(number) = number.filter(|_| !string) {
            replaced.extend(b"null");
            at += number.len();
            found = true;
            continue;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ => {}
        }
        replaced.push(byte);
        at += 1;
    }
    found.then_some(replaced)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn entries(text: &[u8]) -> Vec<Entry> {
        // A small buffer, so that objects span several.
        let file = BufReader::with_capacity(7, Cursor::new(text.to_vec()));
        Entries::new(file)
            .unwrap()
            .map(|(_, entry)| entry)
            .collect()
    }

    fn values(text: &str) -> Vec<Value> {
        let value = |entry: Entry| serde_json::from_slice(&entry.unwrap()).unwrap();
        entries(text.as_bytes()).into_iter().map(value).collect()
    }

    #[test]
    fn brackets_and_commas_in_strings_do_not_count() {
        let object = json!({"a": "]},{\" \\", "b": [[1, 2], {"c": "\\\""}]});
        let expected = vec![object.clone(), object.clone()];
        assert_eq!(values(&format!(" [{object} ,\n{object}\n]\n")), expected);
        assert_eq!(values(&format!("\n{object}\n\n{object}")), expected);
        assert_eq!(values("[]"), [0; 0]);
        assert_eq!(values(" \n"), [0; 0]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let object = json!({"a": 1});
        assert_eq!(
            values(&format!("\u{feff}{object}\n{object}")),
            vec![object.clone(); 2]
        );
        assert_eq!(values(&format!("\u{feff}[{object}]")), vec![object.clone()]);
        assert_eq!(parse::<Value>("\u{feff}{\"a\": 1}".as_bytes()), Ok(object));
        for text in [b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}"] {
            let error = Entries::new(Cursor::new(text.to_vec())).err().unwrap();
            assert!(error.to_string().contains("UTF-16"));
        }
    }

    #[test]
    fn numbers_that_json_has_no_word_for_are_null() {
        let text = br#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN \" Infinity"}"#;
        let expected = json!({"a": null, "b": [null, null], "c": "NaN \" Infinity"});
        assert_eq!(parse::<Value>(text), Ok(expected));
        assert!(parse::<Value>(b"{\"a\": NaNa}").is_err());
    }

    #[test]
    fn a_file_that_is_cut_off_says_so() {
        let last = |text: &str| entries(text.as_bytes()).pop().unwrap();
        assert!(last(r#"[{"a": 1}, {"b"#).unwrap_err().contains("ends"));
        assert!(last(r#"[{"a": 1}"#).unwrap_err().contains("ends"));
        assert!(last(r#"[{"a": 1},"#).unwrap_err().contains("not end"));
    }

    proptest! {
        #[test]
        fn any_bytes_end(text: Vec<u8>, array: bool) {
            let text = if array { [b"[".as_slice(), &text].concat() } else { text };
            let entries = Entries::new(Cursor::new(text.clone())).map_or(0, |entries| entries.count());
            prop_assert!(entries <= text.len() + 1);
        }

        #[test]
        fn arrays_and_lines_are_the_same(strings in prop::collection::vec(any::<String>(), 0..9)) {
            let lines: Vec<String> = strings.iter().map(|s| json!({"s": s}).to_string()).collect();
            prop_assert_eq!(values(&lines.join("\n")), values(&format!("[{}]", lines.join(","))));
        }
    }
}
