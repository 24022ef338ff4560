//! Pickled lists of records, read as data: nothing in them is ever called.
//!
//! A pickle is a program for a stack of values. Only the instructions that build lists, tuples,
//! dictionaries, texts and numbers are carried out (protocols 2 to 5, as Python's `pickle.dump` has
//! written them since 2003); any other, such as those that import and call, ends the reading. A record
//! leaves the stack as soon as nothing can change it: a few are in memory at a time, however large the
//! file.
//!
//! What comes again is read again where it first stood, text or list or dictionary. What is in memory is
//! bounded, and so is how deep lists and dictionaries lie inside each other.
//!
//! One file, as every instruction works on the same stack and the same bounds.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    path::Path,
};

use serde_json::{Map, Number, Value};

use crate::{Error, Result};

/// The first byte of protocols 2 to 5.
pub(super) const START: u8 = 0x80;
/// Bytes of memory for the values that are not given out yet.
const LARGEST: u64 = 128 << 20;
/// Bytes that a value takes beside those of its text.
const OVERHEAD: u64 = 96;
/// Lists and dictionaries inside each other.
const DEEPEST: u8 = 8;
/// Values above the mark of the records, after which the first of them is whole: an unfinished one has
/// above it, level by level, at most a key and a value.
const WAITING: usize = 2 * DEEPEST as usize + 2;
/// Values of a file that may come again.
const MOST_MEMOS: usize = 1 << 24;
/// Texts up to this length are kept, longer ones are read again.
const KEPT: usize = 64;

/// The elements of a pickled list, numbered from 1. After an error nothing follows.
pub(super) struct Elements {
    file: BufReader<File>,
    /// Where the file is read.
    at: u64,
    stack: Vec<Item>,
    /// Elements that are not yet given out.
    whole: VecDeque<Built>,
    memos: HashMap<u32, Memo>,
    /// Values memoized without a number of their own.
    memoized: u32,
    /// Reading again what was memoized.
    again: bool,
    number: u64,
    /// Bytes of memory that are left.
    left: u64,
    ended: bool,
}

enum Item {
    /// The outermost list, whose elements go to the reader.
    Records,
    /// Where it stands.
    Mark(u64),
    Value(Built),
}

struct Built {
    value: Value,
    /// Levels of lists and dictionaries in it.
    depth: u8,
    /// Bytes of memory.
    size: u64,
    /// Where its first instruction stands.
    start: u64,
    memo: Option<u32>,
}

/// A value that may come again.
enum Memo {
    Kept(String),
    /// The instructions that make it, and whether they were carried out again.
    Made {
        by: Range<u64>,
        again: bool,
    },
}

/// Why a file cannot be read on.
type Reason = String;

impl Elements {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self {
            file: BufReader::new(file),
            at: 0,
            stack: Vec::new(),
            whole: VecDeque::new(),
            memos: HashMap::new(),
            memoized: 0,
            again: false,
            number: 0,
            left: LARGEST,
            ended: false,
        })
    }

    /// Carries out instructions until an element is whole; none at the end of the list.
    fn element(&mut self) -> std::result::Result<Option<Value>, Reason> {
        loop {
            if let Some(element) = self.whole.pop_front() {
                self.left += element.size;
                return Ok(Some(element.value));
            }
            let start = self.at;
            let [code] = self.bytes()?;
            let waiting = self.stack.get(2..).unwrap_or_default();
            if begins_value(code)
                && waiting.len() >= WAITING
                && matches!(self.stack[..2], [Item::Records, Item::Mark(_)])
                && waiting.iter().all(|item| matches!(item, Item::Value(_)))
                && let Item::Value(first) = self.stack.remove(2)
            {
                self.whole.push_back(first);
            }
            match (code, &self.stack[..]) {
                (b'a', [Item::Records, Item::Value(_)]) => {
                    let element = self.pop()?;
                    self.whole.push_back(element);
                }
                (b'e', [Item::Records, Item::Mark(_), rest @ ..])
                    if rest.iter().all(|item| matches!(item, Item::Value(_))) =>
                {
                    let (_, elements) = self.pop_mark()?;
                    self.whole.extend(elements);
                }
                (b'.', [Item::Records]) => return Ok(None),
                (b'.', _) => return Err("it is no list of records".into()),
                _ => self.carry_out(code, start)?,
            }
        }
    }

    /// Carries out the instruction `code`, which stands at `start`.
    fn carry_out(&mut self, code: u8, start: u64) -> std::result::Result<(), Reason> {
        match code {
            // PROTO
            START => {
                let [protocol] = self.bytes()?;
                if !(2..=5).contains(&protocol) {
                    return Err(format!("protocol {protocol} is not 2 to 5"));
                }
            }
            // FRAME: its length says nothing that is needed.
            0x95 => drop(self.bytes::<8>()?),
            b'(' => {
                self.spend(OVERHEAD)?;
                self.stack.push(Item::Mark(start));
            }
            b']' if self.stack.is_empty() && self.number == 0 => self.stack.push(Item::Records),
            // EMPTY_LIST, EMPTY_TUPLE, EMPTY_DICT
            b']' | b')' => self.push(Value::Array(Vec::new()), 1, start)?,
            b'}' => self.push(Value::Object(Map::new()), 1, start)?,
            // APPEND, APPENDS
            b'a' => {
                let last = self.pop()?;
                self.extend(vec![last])?;
            }
            b'e' => {
                let (_, values) = self.pop_mark()?;
                self.extend(values)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let (_, values) = self.pop_mark()?;
                self.set(values)?;
            }
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let (mark, values) = self.pop_mark()?;
                self.push(Value::Array(Vec::new()), 1, mark)?;
                self.extend(values)?;
            }
            0x85..=0x87 => {
                let mut values = Vec::new();
                for _ in 0x85..=code {
                    values.insert(0, self.pop()?);
                }
                let first = values.first().map_or(start, |first: &Built| first.start);
                self.push(Value::Array(Vec::new()), 1, first)?;
                self.extend(values)?;
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::Null, 0, start)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88), 0, start)?,
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let number = i32::from_le_bytes(self.bytes()?);
                self.push(number.into(), 0, start)?;
            }
            b'K' => {
                let [number] = self.bytes()?;
                self.push(number.into(), 0, start)?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.bytes()?);
                self.push(number.into(), 0, start)?;
            }
            0x8a => {
                let [length] = self.bytes()?;
                let bytes = self.take(u64::from(length))?;
                self.push(long(&bytes), 0, start)?;
            }
            b'G' => {
                let number = f64::from_be_bytes(self.bytes()?);
                let number = Number::from_f64(number).map_or(Value::Null, Value::Number);
                self.push(number, 0, start)?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; the same of bytes, BYTEARRAY8, and of the
            // texts of Python 2
            0x8c | b'C' | b'U' => {
                let [length] = self.bytes()?;
                self.text(u64::from(length), start)?;
            }
            b'X' | b'B' | b'T' => {
                let length = u32::from_le_bytes(self.bytes()?);
                self.text(u64::from(length), start)?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.bytes()?);
                self.text(length, start)?;
            }
            // MEMOIZE, BINPUT, LONG_BINPUT
            0x94 => {
                self.remember(self.memoized)?;
                self.memoized = self.memoized.saturating_add((!self.again).into());
            }
            b'q' => {
                let [at] = self.bytes()?;
                self.remember(u32::from(at))?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.bytes()?);
                self.remember(at)?;
            }
            // BINGET, LONG_BINGET
            b'h' => {
                let [at] = self.bytes()?;
                self.repeat(u32::from(at), start)?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.bytes()?);
                self.repeat(at, start)?;
            }
            other => return Err(refusal(other)),
        }
        Ok(())
    }

    /// Puts a value on the stack whose first instruction stands at `start`.
    fn push(&mut self, value: Value, depth: u8, start: u64) -> std::result::Result<(), Reason> {
        if self.stack.is_empty() {
            return Err("it is no list of records".into());
        }
        let size = OVERHEAD + value.as_str().map_or(0, |text| text.len() as u64);
        self.spend(size)?;
        let built = Built {
            value,
            depth,
            size,
            start,
            memo: None,
        };
        self.stack.push(Item::Value(built));
        Ok(())
    }

    fn pop(&mut self) -> std::result::Result<Built, Reason> {
        match self.stack.pop() {
            Some(Item::Value(value)) => Ok(value),
            _ => Err("its instructions do not fit together".into()),
        }
    }

    /// Where the last mark stands, and the values above it.
    fn pop_mark(&mut self) -> std::result::Result<(u64, Vec<Built>), Reason> {
        let mut values = Vec::new();
        loop {
            match self.stack.pop() {
                Some(Item::Value(value)) => values.push(value),
                Some(Item::Mark(start)) => {
                    self.left += OVERHEAD;
                    values.reverse();
                    return Ok((start, values));
                }
                _ => return Err("its instructions do not fit together".into()),
            }
        }
    }

    /// Puts the values at the end of the list on top of the stack.
    fn extend(&mut self, values: Vec<Built>) -> std::result::Result<(), Reason> {
        let mut top = self.pop()?;
        let Value::Array(list) = &mut top.value else {
            return Err("its instructions do not fit together".into());
        };
        for built in values {
            top.depth = top.depth.max(deeper(built.depth)?);
            top.size += built.size;
            list.push(built.value);
        }
        self.put_back(top)
    }

    /// Puts keys and values, one after the other, into the dictionary on top of the stack.
    fn set(&mut self, values: Vec<Built>) -> std::result::Result<(), Reason> {
        let mut top = self.pop()?;
        let Value::Object(object) = &mut top.value else {
            return Err("its instructions do not fit together".into());
        };
        let mut values = values.into_iter();
        while let (Some(key), Some(built)) = (values.next(), values.next()) {
            let size = key.size;
            let Value::String(key) = key.value else {
                return Err("a key of a dictionary is no text".into());
            };
            top.depth = top.depth.max(deeper(built.depth)?);
            top.size += size + built.size;
            object.insert(key, built.value);
        }
        self.put_back(top)
    }

    /// Puts a list or dictionary back on the stack that has got something more.
    fn put_back(&mut self, top: Built) -> std::result::Result<(), Reason> {
        if let Some(Memo::Made { by, again }) = top.memo.and_then(|memo| self.memos.get_mut(&memo))
        {
            if *again {
                return Err("a list or dictionary contains itself".into());
            }
            by.end = self.at;
        }
        self.stack.push(Item::Value(top));
        Ok(())
    }

    /// Pushes a text of so many bytes. Bytes that are no text stand for nothing that is read.
    fn text(&mut self, length: u64, start: u64) -> std::result::Result<(), Reason> {
        let bytes = self.take(length)?;
        let text = String::from_utf8(bytes).map_or(Value::Null, Value::String);
        self.push(text, 0, start)
    }

    /// Notes the value on top of the stack under a number.
    fn remember(&mut self, memo: u32) -> std::result::Result<(), Reason> {
        if let Some(Item::Value(top)) = self.stack.last_mut()
            && !self.again
        {
            let value = match &top.value {
                Value::String(text) if text.len() <= KEPT => Memo::Kept(text.clone()),
                _ => Memo::Made {
                    by: top.start..self.at,
                    again: false,
                },
            };
            top.memo = Some(memo);
            self.memos.insert(memo, value);
        }
        if self.memos.len() > MOST_MEMOS {
            Err("it has more values than can be kept: divide it".into())
        } else {
            Ok(())
        }
    }

    /// Pushes what was noted under a number, for an instruction that stands at `start`.
    fn repeat(&mut self, memo: u32, start: u64) -> std::result::Result<(), Reason> {
        let made = match self.memos.get_mut(&memo) {
            Some(Memo::Kept(text)) => {
                let text = text.clone();
                return self.push(Value::String(text), 0, start);
            }
            Some(Memo::Made { by, again }) => {
                *again = true;
                by.clone()
            }
            None => return Err("its instructions do not fit together".into()),
        };
        let (here, outer) = (self.at, std::mem::replace(&mut self.again, true));
        self.go_to(made.start)?;
        while self.at < made.end {
            let start = self.at;
            let [code] = self.bytes()?;
            self.carry_out(code, start)?;
        }
        self.again = outer;
        self.go_to(here)
    }

    fn go_to(&mut self, at: u64) -> std::result::Result<(), Reason> {
        let by = at.wrapping_sub(self.at) as i64;
        self.file.seek_relative(by).map_err(unreadable)?;
        self.at = at;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> std::result::Result<[u8; N], Reason> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(unreadable)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn take(&mut self, length: u64) -> std::result::Result<Vec<u8>, Reason> {
        if length > self.left {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut limited = (&mut self.file).take(length);
        limited.read_to_end(&mut bytes).map_err(unreadable)?;
        self.at += bytes.len() as u64;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err("it is cut off".into())
        }
    }

    fn spend(&mut self, bytes: u64) -> std::result::Result<(), Reason> {
        self.left = self.left.checked_sub(bytes).ok_or_else(too_large)?;
        Ok(())
    }
}

impl Iterator for Elements {
    type Item = (u64, std::result::Result<Value, Reason>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let element = self.element();
        self.ended = !matches!(element, Ok(Some(_)));
        self.number += 1;
        let element =
            element.map_err(|reason| format!("the rest of this pickle cannot be read: {reason}"));
        Some((self.number, element.transpose()?))
    }
}

fn too_large() -> Reason {
    format!("records larger than {} MiB", LARGEST >> 20)
}

/// Whether the instruction puts a new value on the stack.
fn begins_value(code: u8) -> bool {
    let values = b"])}NJKMGCUXBTtjh";
    // A tuple takes what is above a mark; nothing of it is an element yet.
    (values.contains(&code) && code != b't') || matches!(code, 0x88..=0x8a | 0x8c..=0x8e | 0x96)
}

/// Why an instruction is not carried out.
fn refusal(code: u8) -> Reason {
    let calls = match code {
        b'c' => "GLOBAL",
        0x93 => "STACK_GLOBAL",
        b'R' => "REDUCE",
        b'b' => "BUILD",
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        b'P' | b'Q' => "PERSID",
        _ => {
            return format!(
                "its instruction {code:#04x} builds no list of plain records: save these with \
                 `pickle.dump(records, file, protocol=4)`"
            );
        }
    };
    format!("it wants to import or call something ({calls}), which is never done")
}

fn unreadable(error: io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".into(),
        _ => error.to_string(),
    }
}

fn deeper(depth: u8) -> std::result::Result<u8, Reason> {
    if depth < DEEPEST {
        Ok(depth + 1)
    } else {
        Err(format!("lists and dictionaries {DEEPEST} levels deep"))
    }
}

/// A whole number of any length, little end first; one that is too long for us is none.
fn long(bytes: &[u8]) -> Value {
    let Some(last) = bytes.last() else {
        return 0.into();
    };
    if bytes.len() > 8 {
        return Value::Null;
    }
    let mut whole = if *last < 128 { [0; 8] } else { [255; 8] };
    whole[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(whole).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(pickle: &[u8]) -> Vec<std::result::Result<Value, Reason>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pickle).unwrap();
        let elements = Elements::open(file.path()).unwrap();
        elements.map(|(_, element)| element).collect()
    }

    fn unicode(text: &str) -> Vec<u8> {
        let length = (text.len() as u32).to_le_bytes();
        [b"X".as_slice(), &length, text.as_bytes()].concat()
    }

    /// What `pickle.dump([{"question": ..., "answer:": ..., "image": [...]}, ...], protocol=4)` of
    /// CPython writes, with all its memos and repeated keys.
    pub fn dumped(records: &[(&str, &str, &[&str])]) -> Vec<u8> {
        let short = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes(), &[0x94]].concat();
        let mut body = vec![b']', 0x94, b'('];
        for (at, (question, answer, images)) in records.iter().enumerate() {
            body.extend([b'}', 0x94, b'(']);
            let key = |name: &str, memo: u8| match at {
                0 => short(name),
                _ => vec![b'h', memo],
            };
            // Memos of the first record: its dictionary is 1, key 2, text 3, key 4, text 5, key 6.
            for (name, memo, text) in [("question", 2, question), ("answer:", 4, answer)] {
                body.extend(key(name, memo));
                body.extend(unicode(text));
                body.push(0x94);
            }
            body.extend(key("image", 6));
            body.extend([b']', 0x94]);
            match images {
                [] => {}
                [image] => {
                    body.extend(unicode(image));
                    body.extend([0x94, b'a']);
                }
                images => {
                    body.push(b'(');
                    for image in *images {
                        body.extend(unicode(image));
                        body.push(0x94);
                    }
                    body.push(b'e');
                }
            }
            body.push(b'u');
        }
        body.extend(b"e.");
        let frame = (body.len() as u64).to_le_bytes();
        [&[0x80, 4, 0x95], frame.as_slice(), &body].concat()
    }

    #[test]
    fn a_list_is_read_record_by_record() {
        let long = "long ".repeat(40);
        let pickle = dumped(&[
            ("What?", "a dog", &["QQ=="]),
            (&long, "no", &[]),
            ("Which?", "both", &["QQ==", "Qg=="]),
        ]);
        let records = read(&pickle);
        assert_eq!(records.len(), 3);
        let expected = [
            json!({"question": "What?", "answer:": "a dog", "image": ["QQ=="]}),
            json!({"question": long, "answer:": "no", "image": []}),
            json!({"question": "Which?", "answer:": "both", "image": ["QQ==", "Qg=="]}),
        ];
        for (record, expected) in records.iter().zip(&expected) {
            assert_eq!(record.as_ref(), Ok(expected));
        }
        // One record alone is appended without a mark; texts that are long come again as well.
        let again = [unicode(&long), vec![b'q', 7, b'h', 7, 0x86]].concat();
        let single = [b"\x80\x02]q\x00".as_slice(), &again, b"a."].concat();
        assert_eq!(read(&single), [Ok(json!([long, long]))]);
        let numbers = b"\x80\x03](K\x05M\x00\x01J\xff\xff\xff\xff\x8a\x02\x00\x80G?\xe0\x00\x00\x00\x00\x00\x00N\x88e.";
        let numbers: Vec<Value> = read(numbers).into_iter().map(|n| n.unwrap()).collect();
        let expected = json!([5, 256, -1, -32768, 0.5, null, true]);
        assert_eq!(Value::Array(numbers), expected);
        assert_eq!(read(b"\x80\x04]."), []);
        // A dictionary of one entry needs no mark, and several may follow each other.
        let small = b"\x80\x04](}\x8c\x01aK\x01s}}\x8c\x01bK\x02se.";
        let small: Vec<Value> = read(small).into_iter().map(|n| n.unwrap()).collect();
        assert_eq!(Value::Array(small), json!([{"a": 1}, {}, {"b": 2}]));
    }

    /// Written by CPython 3.11: `r = {"a": [1, (2, 3)], "b": "x" * 70}; pickle.dumps([r, {"c": r["a"]}, r], protocol)`.
    #[test]
    fn what_stands_twice_is_read_twice() {
        for pickle in [
            b"\x80\x04\x95q\0\0\0\0\0\0\0]\x94(}\x94(\x8c\x01a\x94]\x94(K\x01K\x02K\x03\x86\x94e\x8c\x01b\x94\
              \x8cFxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\x94u}\x94\x8c\x01c\x94h\x03sh\x01e."
                .as_slice(),
            b"\x80\x02]q\0(}q\x01(X\x01\0\0\0aq\x02]q\x03(K\x01K\x02K\x03\x86q\x04eX\x01\0\0\0bq\x05XF\0\0\0\
              xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxq\x06u}q\x07X\x01\0\0\0cq\x08h\x03\
              sh\x01e.",
        ] {
            let first = json!({"a": [1, [2, 3]], "b": "x".repeat(70)});
            let expected = [first.clone(), json!({"c": [1, [2, 3]]}), first];
            let values: Vec<Value> = read(pickle).into_iter().map(|value| value.unwrap()).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn nothing_is_imported_called_or_built_too_large() {
        let deep = [b"\x80\x04](".as_slice(), &b"]".repeat(20), &b"a".repeat(20)].concat();
        let marks = [b"\x80\x04](}".as_slice(), &b"(".repeat(2 << 20)].concat();
        // A text of a mebibyte, and then as often as it takes.
        let text = [unicode(&"a".repeat(1 << 20)), vec![b'q', 0]].concat();
        let again = [b"\x80\x04](](".as_slice(), &text, &b"h\x00".repeat(200)].concat();
        // A list of 99 lists of 99 lists ...
        let mut bomb = b"\x80\x04](".to_vec();
        for level in 0..7 {
            bomb.extend([b']', b'q', level, b'(']);
            bomb.extend([b'h', level.saturating_sub(1)].repeat(if level > 0 { 99 } else { 0 }));
            bomb.push(b'e');
        }
        for (pickle, expected) in [
            (b"\x80\x04]cos\nsystem\n".as_slice(), "GLOBAL"),
            (b"\x80\x04](\x8c\x02os\x8c\x06system\x93", "STACK_GLOBAL"),
            (b"\x80\x04])R.", "REDUCE"),
            (b"\x80\x04]}b.", "BUILD"),
            (b"\x80\x04]\x81.", "NEWOBJ"),
            (b"\x80\x04]2.", "0x32"),
            (b"(lp0\n.", "0x6c"),
            (b"\x80\x09].", "protocol 9"),
            (b"\x80\x04}.", "no list"),
            (b"\x80\x04]", "cut off"),
            (b"\x80\x04]X\xff\xff\xff\xffa", "larger than 128 MiB"),
            (b"\x80\x04]\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "larger"),
            (b"\x80\x04](}K\x01K\x02s", "is no text"),
            (b"\x80\x04](]q\x05h\x05a", "contains itself"),
            (b"\x80\x04](h\x05", "fit together"),
            (&bomb, "larger than 128 MiB"),
            (b"\x80\x04]u", "fit together"),
            (&deep, "levels deep"),
            (&marks, "larger than 128 MiB"),
            (&again, "larger than 128 MiB"),
        ] {
            let last = read(pickle).pop().unwrap();
            let reason = last.unwrap_err();
            assert!(reason.contains(expected), "{expected}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn damaged_pickles_end(at: prop::sample::Index, byte: u8, cut: bool) {
            let mut pickle = dumped(&[("What?", "a dog", &["QQ=="]), ("Which?", "both", &[])]);
            let at = at.index(pickle.len());
            pickle[at] = byte;
            if cut {
                pickle.truncate(at);
            }
            prop_assert!(read(&pickle).len() < 100);
        }
    }
}
