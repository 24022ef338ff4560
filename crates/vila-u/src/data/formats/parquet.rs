//! Parquet tables as the Hugging Face Hub has them: pictures as bytes, and what is said about them.
//!
//! | column | is |
//! | --- | --- |
//! | `image`, `images` | a picture or a list: `{bytes, path}`, or bytes alone |
//! | `conversations` | a list of `{from, value}`, as LLaVA has it |
//! | `texts` | a list of `{user, assistant}` |
//! | `caption`, `text` | a caption; such a table is of the kinds of its source |
//! | `id` | names the record, otherwise its row does |
//!
//! Layout: `datasets.Image` of huggingface/datasets (`features/image.py`: a struct of `bytes` and
//! `path`); lmms-lab/LLaVA-OneVision-Data has `id`, `image`, `conversations`, HuggingFaceM4/the_cauldron
//! `images`, `texts`. Other columns are not read.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, Row, reader::RowIter},
    schema::types::Type,
};

use super::{Bad, Records, footer};
use crate::{
    Error, Result,
    catch_unwind::catch_unwind_silent,
    data::record::{Image, LARGEST_IMAGE, Pictures, Record, Text, inside},
    file_kind,
    text::conversation::Turn,
};

const COLUMNS: [&str; 7] = [
    "id",
    "image",
    "images",
    "conversations",
    "texts",
    "caption",
    "text",
];
/// Rows decoded at once.
const ROWS: usize = 16;

/// The rows of a shard; picture paths in them are relative to `folder`.
pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    let folder = folder.to_path_buf();
    let records = rows(path, &COLUMNS)?.zip(1..).map(move |(row, number)| {
        let record = row.and_then(|row| record(number, row, &folder));
        record.map_err(|reason| Bad {
            key: format!("row {number}"),
            reason,
        })
    });
    Ok(Box::new(records))
}

/// The rows of a table, as far as these columns go. After one that cannot be read nothing follows.
pub(super) fn rows(
    path: &Path,
    columns: &[&str],
) -> Result<impl Iterator<Item = std::result::Result<Row, String>> + Send + use<>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let invalid = |reason: String| Error::invalid(path, reason);
    if let Some(what) = file_kind::mistaken_file(&mut file).map_err(Error::io(path))? {
        return Err(invalid(format!("no Parquet table: {what}")));
    }
    footer::check(&mut file).map_err(invalid)?;
    // Damaged files make the library panic here and there.
    let rows = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        let schema = reader.metadata().file_metadata().schema();
        let known = |column: &&Arc<Type>| columns.contains(&column.name());
        let columns = schema.get_fields().iter().filter(known).cloned().collect();
        let columns = Type::group_type_builder(schema.name())
            .with_fields(columns)
            .build()?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(columns))?;
        Ok(rows.with_batch_size(ROWS))
    });
    let mut rows = rows.map_err(invalid)?;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = guarded(|| rows.next().transpose());
        ended = !matches!(row, Ok(Some(_)));
        let row = row.map_err(|reason| format!("the rest of this table cannot be read: {reason}"));
        row.transpose()
    }))
}

/// The result, or why the library failed.
fn guarded<T>(
    work: impl FnOnce() -> std::result::Result<T, parquet::errors::ParquetError>,
) -> std::result::Result<T, String> {
    match catch_unwind_silent(work) {
        Some(result) => result.map_err(|error| error.to_string()),
        None => Err("the file is damaged".into()),
    }
}

fn record(number: u64, row: Row, folder: &Path) -> std::result::Result<Record, String> {
    let (mut id, mut images, mut turns, mut caption) = (number.to_string(), vec![], vec![], None);
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            (_, Field::Null) => {}
            ("id", Field::Str(text)) => id = text,
            ("id", other) => id = other.to_string(),
            ("caption" | "text", Field::Str(text)) => caption = Some(text),
            ("image" | "images", Field::ListInternal(list)) => {
                for element in list.elements() {
                    images.push(image(element, folder)?);
                }
            }
            ("image" | "images", field) => images.push(image(&field, folder)?),
            ("conversations" | "texts", Field::ListInternal(list)) => {
                for element in list.elements() {
                    said(element, &mut turns)?;
                }
            }
            (name, _) => return Err(format!("column {name} is of a type that is not read")),
        }
    }
    if !turns.is_empty() {
        return Ok(Record {
            id,
            text: Text::Turns(turns),
            pictures: Pictures::Images(images),
        });
    }
    match (caption, images.pop(), images.is_empty()) {
        (Some(caption), Some(image), true) => Ok(Record {
            id,
            text: Text::Caption(caption),
            pictures: Pictures::Images(vec![image]),
        }),
        _ => Err(
            "neither a conversation (`conversations`, `texts`) nor one picture and its `caption`"
                .into(),
        ),
    }
}

/// A picture: bytes, or a struct of bytes and a path.
pub(super) fn image(field: &Field, folder: &Path) -> std::result::Result<Image, String> {
    let content = |bytes: &[u8]| {
        if bytes.len() as u64 <= LARGEST_IMAGE {
            Ok(Image::Bytes(bytes.to_vec()))
        } else {
            Err(format!("a picture larger than {} MiB", LARGEST_IMAGE >> 20))
        }
    };
    match field {
        Field::Bytes(bytes) => content(bytes.data()),
        Field::Group(row) => {
            let part = |wanted: &str| {
                let mut parts = row.get_column_iter();
                parts
                    .find(|(name, _)| *name == wanted)
                    .map(|(_, field)| field)
            };
            match (part("bytes"), part("path")) {
                (Some(Field::Bytes(bytes)), _) => content(bytes.data()),
                (_, Some(Field::Str(path))) => inside(folder, path).map(Image::File),
                _ => Err("a picture has neither bytes nor a path".into()),
            }
        }
        _ => Err("a picture is of a type that is not read".into()),
    }
}

/// What one element of a conversation adds to its turns.
fn said(element: &Field, turns: &mut Vec<Turn>) -> std::result::Result<(), String> {
    let unreadable =
        || "a turn has neither `from` and `value` nor `user` and `assistant`".to_string();
    let Field::Group(row) = element else {
        return Err(unreadable());
    };
    let text = |wanted: &str| {
        let mut parts = row.get_column_iter();
        parts.find_map(|(name, field)| match field {
            Field::Str(text) if name == wanted => Some(text.as_str()),
            _ => None,
        })
    };
    match (text("from"), text("value"), text("user"), text("assistant")) {
        (Some("human"), Some(value), ..) => turns.push(Turn::human(value)),
        (Some("gpt"), Some(value), ..) => turns.push(Turn::assistant(value)),
        (Some(other), ..) => return Err(format!("a turn is from {other:?}, not human or gpt")),
        (.., Some(user), Some(assistant)) => {
            turns.extend([Turn::human(user), Turn::assistant(assistant)]);
        }
        _ => return Err(unreadable()),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use parquet::{
        column::writer::ColumnWriter,
        data_type::ByteArray,
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use proptest::prelude::*;

    use super::*;

    /// Id, picture and turns.
    type Row<'a> = (&'a str, Option<&'a [u8]>, &'a [(&'a str, &'a str)]);

    /// A table of conversations in the layout of LLaVA-OneVision-Data.
    fn conversations(rows: &[Row]) -> Vec<u8> {
        let schema = "message schema {
            optional binary id (STRING);
            optional group image { optional binary bytes; optional binary path (STRING); }
            optional group conversations (LIST) { repeated group list { optional group element {
                optional binary from (STRING); optional binary value (STRING); } } }
            optional binary data_source (STRING);
        }";
        let turns = |part: fn(&(&str, &str)) -> String| {
            let (mut values, mut definitions, mut repetitions) = (vec![], vec![], vec![]);
            for (_, _, said) in rows {
                for (at, turn) in said.iter().enumerate() {
                    values.push(part(turn).into_bytes());
                    definitions.push(4);
                    repetitions.push(i16::from(at > 0));
                }
                if said.is_empty() {
                    definitions.push(1);
                    repetitions.push(0);
                }
            }
            (values, definitions, Some(repetitions))
        };
        let flat = |values: Vec<Option<Vec<u8>>>, defined: i16| {
            let level = |value: &Option<Vec<u8>>| if value.is_some() { defined } else { 0 };
            let levels = values.iter().map(level).collect();
            (values.into_iter().flatten().collect(), levels, None)
        };
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        write(
            schema,
            vec![
                flat(rows.iter().map(|row| bytes(row.0)).collect(), 1),
                flat(
                    rows.iter().map(|row| row.1.map(<[u8]>::to_vec)).collect(),
                    2,
                ),
                flat(rows.iter().map(|_| None).collect(), 2),
                turns(|turn| turn.0.into()),
                turns(|turn| turn.1.into()),
                flat(rows.iter().map(|_| bytes("tests")).collect(), 1),
            ],
        )
    }

    type Column = (Vec<Vec<u8>>, Vec<i16>, Option<Vec<i16>>);

    fn write(schema: &str, columns: Vec<Column>) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(parquet::basic::Compression::SNAPPY)
            .build();
        let mut file = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut file, schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (values, definitions, repetitions) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let number = |text: Vec<u8>| String::from_utf8(text).unwrap().parse().unwrap();
                    let values: Vec<i64> = values.into_iter().map(number).collect();
                    let levels = (Some(&definitions[..]), repetitions.as_deref());
                    writer.write_batch(&values, levels.0, levels.1).unwrap();
                }
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let values: Vec<_> = values.into_iter().map(ByteArray::from).collect();
                    let levels = (Some(&definitions[..]), repetitions.as_deref());
                    writer.write_batch(&values, levels.0, levels.1).unwrap();
                }
                _ => unreachable!(),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        file
    }

    /// Pictures and their classes in the layout of Hugging Face's image datasets.
    pub fn labelled(pictures: &[(Vec<u8>, i64)]) -> Vec<u8> {
        let schema = "message schema {
            optional group image { optional binary bytes; optional binary path (STRING); }
            optional int64 label;
        }";
        let (n, images) = (pictures.len(), pictures.iter().map(|one| one.0.clone()));
        let labels = pictures.iter().map(|one| one.1.to_string().into_bytes());
        write(
            schema,
            vec![
                (images.collect(), vec![2; n], None),
                (Vec::new(), vec![1; n], None),
                (labels.collect(), vec![1; n], None),
            ],
        )
    }

    fn read(table: &[u8]) -> Result<Vec<std::result::Result<Record, Bad>>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table).unwrap();
        Ok(open(file.path(), Path::new("images"))?.collect())
    }

    fn table() -> Vec<u8> {
        let said = [
            ("human", "<image>\nWhat?"),
            ("gpt", "A dog."),
            ("human", "Sure?"),
            ("gpt", "Yes."),
        ];
        conversations(&[
            ("a", Some(b"A"), &said[..2]),
            ("b", None, &said),
            ("c", Some(b"C"), &[]),
            ("d", Some(b"D"), &[("system", "x")]),
        ])
    }

    #[test]
    fn rows_are_conversations() {
        let records = read(&table()).unwrap();
        assert_eq!(records.len(), 4);
        let first = records[0].as_ref().unwrap();
        assert_eq!((first.id.as_str(), first.caption()), ("a", Some("A dog.")));
        let image = Image::Bytes(b"A".to_vec());
        assert_eq!(first.pictures, Pictures::Images(vec![image]));
        let second = records[1].as_ref().unwrap();
        assert_eq!(second.pictures, Pictures::Images(Vec::new()));
        assert!(matches!(&second.text, Text::Turns(turns) if turns.len() == 4));
        assert!(records[2].as_ref().unwrap_err().reason.contains("neither"));
        assert!(records[3].as_ref().unwrap_err().reason.contains("system"));
    }

    #[test]
    fn tables_of_captions_and_of_lists_are_read() {
        let schema = "message schema {
            required binary image; required binary caption (STRING); }";
        let column = |text: &str| (vec![text.as_bytes().to_vec()], vec![0], None);
        let records = read(&write(schema, vec![column("A"), column("a cat")])).unwrap();
        assert_eq!(records[0].as_ref().unwrap().caption(), Some("a cat"));

        let schema = "message schema {
            optional group images (LIST) { repeated group list { optional group element {
                optional binary bytes; optional binary path (STRING); } } }
            optional group texts (LIST) { repeated group list { optional group element {
                optional binary user (STRING); optional binary assistant (STRING); } } }
        }";
        let list = |text: &[&str]| {
            let values: Vec<Vec<u8>> = text.iter().map(|text| text.as_bytes().to_vec()).collect();
            let repetitions = (0..text.len()).map(|at| i16::from(at > 0)).collect();
            (values, vec![4; text.len()], Some(repetitions))
        };
        let no_paths = (Vec::new(), vec![3, 3], Some(vec![0, 1]));
        let columns = vec![
            list(&["A", "B"]),
            no_paths,
            list(&["What?"]),
            list(&["Dogs."]),
        ];
        let records = read(&write(schema, columns)).unwrap();
        let record = records[0].as_ref().unwrap();
        let images = [b"A", b"B"].map(|content| Image::Bytes(content.to_vec()));
        assert_eq!(record.pictures, Pictures::Images(images.to_vec()));
        assert_eq!(record.caption(), Some("Dogs."));
    }

    /// As Hugging Face, polars and duckdb write them (`tests/parquet`).
    #[test]
    fn tables_of_every_compression_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet");
        for name in ["brotli", "dd_gzip", "gzip", "lz4", "pl_lz4"] {
            let path = folder.join(format!("{name}.parquet"));
            let records: Vec<_> = open(&path, &folder).unwrap().collect();
            assert!(
                !records.is_empty() && records.iter().all(|record| record.is_ok()),
                "{name}: {records:?}"
            );
        }
    }

    /// Wherever a byte of the table's description is wrong: the library panics for some of them.
    #[test]
    fn damage_is_reported_in_words() {
        let whole = table();
        let mut damaged = 0;
        for at in whole.len() * 3 / 5..whole.len() * 7 / 8 {
            let mut table = whole.clone();
            table[at] = 1;
            match read(&table) {
                Err(error) => damaged += usize::from(error.to_string().contains("is damaged")),
                Ok(records) => {
                    let bad = records.into_iter().filter_map(std::result::Result::err);
                    damaged += bad.filter(|bad| bad.reason.contains("is damaged")).count();
                }
            }
        }
        assert!(damaged > 0);
    }

    proptest! {
        #[test]
        fn damaged_tables_end(at: prop::sample::Index, byte: u8, cut: bool) {
            let mut table = table();
            let at = at.index(table.len());
            table[at] = byte;
            if cut {
                table.truncate(at);
            }
            if let Ok(records) = read(&table) {
                prop_assert!(records.len() < 1000);
            }
        }
    }
}
