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
    let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties)).unwrap();
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
