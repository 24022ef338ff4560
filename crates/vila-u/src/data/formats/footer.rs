//! How deep the columns of a Parquet table lie in each other, told before the library reads them: it
//! builds them by recursion without a limit, and a stack that overflows ends the program.
//!
//! ```text
//! file   = ... footer, its length (u32), "PAR1"
//! footer = { 1: i32 version, 2: list of columns, ... }        in Thrift's compact protocol
//! column = { 1..3, 6..9: i32, 4: name, 5: i32 children, 10: type }
//! ```
//!
//! A column's children follow it, each with its own. The library goes by the numbers of the fields and not by
//! their kinds; so that both read the same, a field of another kind than the format's is refused here.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

/// Columns inside each other; a list in a list has four.
const DEEPEST: usize = 64;

/// Kinds of fields.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

type Parsed<T> = std::result::Result<T, String>;

/// An error where the columns lie too deep or cannot be told. What else is wrong, the library says.
pub(super) fn check(file: &mut File) -> Parsed<()> {
    match footer(file).map_err(|error| error.to_string())? {
        Some(bytes) => Footer(&bytes).check(),
        None => Ok(()),
    }
}

/// The footer, if the file has one.
fn footer(file: &mut File) -> std::io::Result<Option<Vec<u8>>> {
    let Some(end) = file.seek(SeekFrom::End(0))?.checked_sub(8) else {
        return Ok(None);
    };
    let mut last = [0; 8];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut last)?;
    let [a, b, c, d, magic @ ..] = last;
    let length = u32::from_le_bytes([a, b, c, d]);
    let Some(start) = end.checked_sub(length.into()) else {
        return Ok(None);
    };
    if &magic != b"PAR1" {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// What is left of it to read.
struct Footer<'a>(&'a [u8]);

impl Footer<'_> {
    fn check(&mut self) -> Parsed<()> {
        match (self.field(0)?, self.varint()?, self.field(1)?) {
            (Some((1, I32)), _, Some((2, LIST))) => self.columns(),
            _ => Err(damaged()),
        }
    }

    fn columns(&mut self) -> Parsed<()> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            few => few.into(),
        };
        if head & 15 != STRUCT {
            return Err(damaged());
        }
        // Children to come of the groups that a column is in.
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..count {
            let children = self.column()?;
            if children > count {
                return Err(damaged());
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            if open.len() > DEEPEST {
                return Err(format!(
                    "columns inside each other more than {DEEPEST} levels deep"
                ));
            }
            while open.pop_if(|left| *left == 0).is_some() {}
        }
        Ok(())
    }

    /// The number of its children.
    fn column(&mut self) -> Parsed<u64> {
        let (mut children, mut last) = (0, 0);
        while let Some((id, kind)) = self.field(last)? {
            match (id, kind) {
                (5, I32) => {
                    let value = self.varint()?;
                    // Signs are in the lowest bit.
                    children = if value & 1 == 0 { value >> 1 } else { 0 };
                }
                (1..=3 | 6..=9, I32) => drop(self.varint()?),
                (4, BINARY) => self.binary()?,
                (10, STRUCT) => self.logical_type()?,
                _ => return Err(damaged()),
            }
            last = id;
        }
        Ok(children)
    }

    /// One field, whose number says what the type is, and that holds what more there is to say.
    fn logical_type(&mut self) -> Parsed<()> {
        let Some((variant, STRUCT)) = self.field(0)? else {
            return Err(damaged());
        };
        let mut last = 0;
        while let Some((id, kind)) = self.field(last)? {
            match (variant, id, kind) {
                // Decimal numbers, and how edges on a globe run.
                (5, 1 | 2, I32) | (18, 2, I32) => drop(self.varint()?),
                // Times, and their unit.
                (7 | 8, 1, TRUE | FALSE) => {}
                (7 | 8, 2, STRUCT) => self.one_empty()?,
                // Integers, and values of any kind.
                (10 | 16, 1, BYTE) => drop(self.byte()?),
                (10, 2, TRUE | FALSE) => {}
                // Places, and their coordinates.
                (17 | 18, 1, BINARY) => self.binary()?,
                _ => return Err(damaged()),
            }
            last = id;
        }
        self.end()
    }

    /// A struct of one field, which is a struct without any.
    fn one_empty(&mut self) -> Parsed<()> {
        match self.field(0)? {
            Some((_, STRUCT)) => self.end().and_then(|()| self.end()),
            _ => Err(damaged()),
        }
    }

    /// The end of a struct.
    fn end(&mut self) -> Parsed<()> {
        match self.byte()? {
            0 => Ok(()),
            _ => Err(damaged()),
        }
    }

    /// Number and kind of the next field of a struct, or none at its end. Numbers ascend.
    fn field(&mut self, last: u8) -> Parsed<Option<(u8, u8)>> {
        match self.byte()? {
            0 => Ok(None),
            head @ 0x10.. => match last.checked_add(head >> 4) {
                Some(id) if head & 15 != 0 => Ok(Some((id, head & 15))),
                _ => Err(damaged()),
            },
            _ => Err(damaged()),
        }
    }

    fn binary(&mut self) -> Parsed<()> {
        let length = usize::try_from(self.varint()?).map_err(|_| damaged())?;
        self.0 = self.0.get(length..).ok_or_else(damaged)?;
        Ok(())
    }

    /// 7 bits a byte, the lowest first; the last byte's highest bit is 0.
    fn varint(&mut self) -> Parsed<u64> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if value <= u32::MAX.into() {
                    Ok(value)
                } else {
                    Err(damaged())
                };
            }
        }
        Err(damaged())
    }

    fn byte(&mut self) -> Parsed<u8> {
        let (byte, rest) = self.0.split_first().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*byte)
    }
}

fn damaged() -> String {
    "the description of its columns is damaged".into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Write, path::Path, sync::Arc};

    use ::parquet::{file::writer::SerializedFileWriter, schema::parser::parse_message_type};

    use super::{super::parquet, *};

    fn checked(bytes: &[u8]) -> Parsed<()> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&mut file)
    }

    /// A table whose columns are groups of one child, each in the one before.
    fn nested(depth: usize) -> Vec<u8> {
        let mut footer = vec![0x15, 4, 0x19, 0xfc]; // version 2; a list of structs
        let mut count = depth;
        while count > 0x7f {
            footer.push(count as u8 | 0x80);
            count >>= 7;
        }
        footer.push(count as u8);
        for _ in 1..depth {
            footer.extend([0x35, 2, 0x18, 1, b'g', 0x15, 2, 0]); // optional, "g", one child
        }
        footer.extend([0x15, 12, 0x25, 2, 0x18, 1, b'x', 0, 0]); // bytes, optional, "x"
        let length = footer.len() as u32;
        [b"PAR1", &footer[..], &length.to_le_bytes(), b"PAR1"].concat()
    }

    #[test]
    fn columns_too_deep_are_refused() {
        assert_eq!(checked(&nested(DEEPEST)), Ok(()));
        for depth in [DEEPEST + 1, 20_000] {
            let error = checked(&nested(depth)).unwrap_err();
            assert!(error.contains("64 levels"), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), nested(20_000)).unwrap();
        let error = parquet::open(file.path(), Path::new("")).err();
        assert!(error.unwrap().to_string().contains("64 levels"));
        assert!(checked(&nested(20)[..90]).is_ok(), "not a table at all");
    }

    /// Columns side by side, of every type that the format knows.
    #[test]
    fn usual_columns_are_read() {
        let schema = "message schema {
            required int32 a (INTEGER(8, true)); optional int64 b (TIMESTAMP(MICROS, true));
            optional int32 c (TIME(MILLIS, false)); required fixed_len_byte_array(5) d (DECIMAL(10, 2));
            repeated binary e (STRING); optional binary f (JSON); optional fixed_len_byte_array(16) g (UUID);
            optional group h (LIST) { repeated group list { optional group element {
                optional binary i; optional binary j (ENUM); } } }
            required group k (MAP) { repeated group key_value { required binary l; optional int32 m (DATE); } }
            optional int96 n; required boolean o; optional double p; optional float q;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut bytes = Vec::new();
        let writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
        writer.close().unwrap();
        assert_eq!(checked(&bytes), Ok(()));
    }

    /// Where the kind of a field is not the format's, the library would read on elsewhere.
    #[test]
    fn fields_of_other_kinds_are_refused() {
        let whole = nested(3);
        for at in [4, 6, 7, 9, 11, 14] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(checked(&bytes).is_err(), "byte {at}");
        }
    }
}
