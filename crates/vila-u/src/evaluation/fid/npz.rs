//! Statistics as pytorch-fid (`--save-stats`) and clean-fid (`make_custom_stats`) keep them: NumPy's `.npz`, a zip archive
//! of `mu.npy` (`[channels]`) and `sigma.npy` (`[channels, channels]`), f64 or f32.

use std::{
    fs::File,
    io::{Cursor, Read, Write},
    path::Path,
};

use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::Gaussian;
use crate::{Error, Result, atomic};

/// More channels than any network's features have.
const MOST_CHANNELS: usize = 16_384;
const MAGIC: &[u8] = b"\x93NUMPY";

impl Gaussian {
    /// Reads statistics that these programs, or [`Gaussian::write`], have written.
    ///
    /// # Errors
    /// When the file is missing or damaged, or holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let invalid = |reason: String| Error::invalid(path, reason);
        let mut archive = ZipArchive::new(file)
            .map_err(|error| invalid(format!("no .npz of statistics: {error}")))?;
        let mut array = |name: &str| {
            let member = archive.by_name(name).map_err(|error| match error {
                ZipError::FileNotFound => format!(
                    "no statistics: it has no {name} beside it, as pytorch-fid and clean-fid write them"
                ),
                error => format!("{name}: {error}"),
            })?;
            read_array(member).map_err(|reason| format!("{name}: {reason}"))
        };
        let mean = array("mu.npy").map_err(invalid)?;
        let covariance = array("sigma.npy").map_err(invalid)?;
        let channels = mean.values.len();
        if mean.shape.len() != 1 || covariance.shape != [channels, channels] {
            let (mu, sigma) = (&mean.shape, &covariance.shape);
            return Err(invalid(format!("mu has shape {mu:?} and sigma {sigma:?}")));
        }
        Ok(Self {
            mean: mean.values,
            covariance: covariance.values,
        })
    }

    /// Writes the statistics as these programs do, in f64.
    pub fn write(&self, path: &Path) -> Result<()> {
        let channels = self.channels();
        let pack = || {
            let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
            let options =
                SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
            archive.start_file("mu.npy", options)?;
            archive.write_all(&array_file(&[channels], &self.mean))?;
            archive.start_file("sigma.npy", options)?;
            archive.write_all(&array_file(&[channels, channels], &self.covariance))?;
            Ok(archive.finish()?.into_inner())
        };
        let bytes = pack().map_err(|error: ZipError| Error::invalid(path, error.to_string()))?;
        atomic::write(path, &bytes)
    }
}

/// A `.npy`, format version 1.0.
fn array_file(shape: &[usize], values: &[f64]) -> Vec<u8> {
    let shape: String = shape.iter().map(|size| format!("{size},")).collect();
    let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}");
    // With the ten bytes before it, a multiple of 64 long.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut file = MAGIC.to_vec();
    file.extend([1, 0]);
    file.extend((length as u16).to_le_bytes());
    file.extend(format!("{header:<width$}\n", width = length - 1).into_bytes());
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    file
}

struct Array {
    shape: Vec<usize>,
    /// In the order of the file: of a symmetric matrix it does not matter which.
    values: Vec<f64>,
}

fn read_array(mut file: impl Read) -> std::result::Result<Array, String> {
    let cut = |_| "cut short".to_string();
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(cut)?;
    let version = start[6];
    if &start[..6] != MAGIC || !(1..=3).contains(&version) {
        return Err("no NumPy array".into());
    }
    let length = if version == 1 {
        let mut length = [0; 2];
        file.read_exact(&mut length).map_err(cut)?;
        usize::from(u16::from_le_bytes(length))
    } else {
        let mut length = [0; 4];
        file.read_exact(&mut length).map_err(cut)?;
        u32::from_le_bytes(length) as usize
    };
    if length > 1 << 16 {
        return Err(format!("a header of {length} bytes"));
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header).map_err(cut)?;
    let header = String::from_utf8_lossy(&header);
    let size = match field(&header, "descr") {
        Some("'<f8'") => 8,
        Some("'<f4'") => 4,
        other => {
            let other = other.unwrap_or("nothing");
            return Err(format!("numbers of type {other}, not '<f8' or '<f4'"));
        }
    };
    let shape = field(&header, "shape").and_then(shape).ok_or("no shape")?;
    let count = match shape[..] {
        [n] if n <= MOST_CHANNELS => n,
        [n, m] if n <= MOST_CHANNELS && m <= MOST_CHANNELS => n * m,
        _ => return Err(format!("shape {shape:?}")),
    };
    // Memory is taken as the file turns out to have it.
    let mut bytes = Vec::new();
    let read = file.take((count * size) as u64).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() != count * size {
        return Err("cut short".into());
    }
    let value = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    };
    let values: Vec<f64> = bytes.chunks_exact(size).map(value).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(Array { shape, values })
    } else {
        Err("numbers that are not finite".into())
    }
}

/// What follows a key of the header, which is a dictionary as Python writes it.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}':"))?;
    let rest = rest.trim_start();
    let end = if rest.starts_with('(') {
        rest.find(')')? + 1
    } else {
        rest.find([',', '}'])?
    };
    Some(rest[..end].trim_end())
}

/// `(2048, 2048)` or `(2048,)`.
fn shape(tuple: &str) -> Option<Vec<usize>> {
    let inside = tuple.strip_prefix('(')?.strip_suffix(')')?;
    let sizes = inside
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gaussian() -> Gaussian {
        Gaussian {
            mean: vec![1.5, -2.0, 1e-300],
            covariance: (0..9).map(|at| (at / 3 * (at % 3)) as f64 / 7.0).collect(),
        }
    }

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            archive
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn statistics_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statistics.npz");
        gaussian().write(&path).unwrap();
        assert_eq!(Gaussian::read(&path).unwrap(), gaussian());
    }

    #[test]
    fn what_is_no_statistics_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mu = array_file(&[1], &[1.0]);
        let sigma = |shape: &[usize]| array_file(shape, &[1.0, 0.0, 0.0, 1.0]);
        let huge = array_file(&[1 << 40, 1 << 40], &[]);
        let nan = array_file(&[1], &[f64::NAN]);
        let short = array_file(&[3], &[1.0]);
        let text = [&mu[..10], b"{'descr': '<i4', 'shape': (1,), }"].concat();
        for (content, expected) in [
            (b"text".to_vec(), "no .npz"),
            (zip(&[("mu.npy", &mu)]), "no sigma.npy"),
            (zip(&[("mu.npy", b"text"), ("sigma.npy", &mu)]), "cut short"),
            (
                zip(&[("mu.npy", b"text text"), ("sigma.npy", &mu)]),
                "no NumPy array",
            ),
            (
                zip(&[("mu.npy", &mu), ("sigma.npy", &sigma(&[2, 2]))]),
                "mu has shape [1]",
            ),
            (zip(&[("mu.npy", &huge)]), "shape [1099511627776"),
            (zip(&[("mu.npy", &nan)]), "not finite"),
            (zip(&[("mu.npy", &short)]), "cut short"),
            (zip(&[("mu.npy", &text)]), "cut short"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Gaussian::read(&path).unwrap_err().to_string();
            assert!(
                error.contains("a.npz") && error.contains(expected),
                "{error}"
            );
        }
        assert!(Gaussian::read(&folder.path().join("none.npz")).is_err());
    }
}
