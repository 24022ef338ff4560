//! TensorBoard event files: scalar summaries in TFRecord framing.
//!
//! A record is `length u64 | masked crc32c(length) | bytes | masked crc32c(bytes)`, and the bytes are
//! a protobuf `Event`: `wall_time = 1` (double), `step = 2` (int64), `file_version = 3` (string),
//! `summary = 5` holding repeated `value = 1` with `tag = 1` (string) and `simple_value = 2` (float).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// An open event file.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Starts a new event file in `folder`; TensorBoard joins the files of one folder by step.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let start = now();
        let path = (0u32..)
            .map(|n| {
                folder.join(format!(
                    "events.out.tfevents.{:010}.{n}.vila-u",
                    start as u64
                ))
            })
            .find(|path| !path.exists())
            .unwrap_or_else(|| folder.join("events.out.tfevents.vila-u"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        let mut events = Self { path, file };
        let mut event = Vec::new();
        double(&mut event, 1, start);
        bytes(&mut event, 3, b"brain.Event:2");
        events.write(&event)?;
        Ok(events)
    }

    /// Appends one event with all the scalars of a step.
    pub(super) fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_bytes());
            key(&mut entry, 2, 5);
            entry.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        let mut event = Vec::new();
        double(&mut event, 1, now());
        key(&mut event, 2, 0);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc32c(event).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path))
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// TFRecord's rotated and offset CRC-32C (polynomial 0x1EDC6F41, reflected).
fn masked_crc32c(data: &[u8]) -> u32 {
    let crc = !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of the CRC catalogue ("123456789") and RFC 3720 (32 zero bytes), masked.
    #[test]
    fn checksum_is_crc32c() {
        let mask = |crc: u32| crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc32c(b"123456789"), mask(0xe306_9283));
        assert_eq!(masked_crc32c(&[0; 32]), mask(0x8a91_36aa));
    }

    #[test]
    fn records_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut events = Events::create(folder.path()).expect("a file");
        events
            .scalars(300, [("loss/total", 1.5), ("learning_rate", 1e-3)])
            .expect("write");
        let file = std::fs::read(&events.path).expect("read");
        let mut rest = &file[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
            assert_eq!(crc(8), masked_crc32c(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc32c(&rest[12..12 + length]));
            records.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(records.len(), 2);
        assert_eq!(&records[0][9..], b"\x1a\x0dbrain.Event:2");
        // step 300 as a varint, then the summary with its first value.
        assert_eq!(&records[1][9..12], [0x10, 0xac, 0x02]);
        let mut value = b"\x0a\x0aloss/total\x15".to_vec();
        value.extend(1.5f32.to_le_bytes());
        assert!(
            records[1]
                .windows(value.len())
                .any(|window| window == value)
        );
    }
}
