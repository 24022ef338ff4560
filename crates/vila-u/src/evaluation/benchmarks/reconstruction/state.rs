//! What an unfinished run keeps beside its samples, so that it can go on: all sums, as vectors of f64 by name.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{Error, Result, atomic};

/// The sums of a run after `n` pictures.
pub(super) struct State {
    pub n: usize,
    pub sums: BTreeMap<String, Vec<f64>>,
}

impl State {
    fn path(folder: &Path) -> PathBuf {
        folder.join("unfinished.safetensors")
    }

    /// Reads what [`State::write`] has written, if something is there.
    ///
    /// # Errors
    /// When the file is damaged, or of a run that was not `run`: a usage error.
    pub fn read(folder: &Path, run: &str) -> Result<Option<Self>> {
        let path = Self::path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let damaged = || Error::invalid(&path, "damaged: remove it, and the run begins anew");
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| damaged())?;
        let file = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
        let note = |key: &str| header.metadata().as_ref()?.get(key);
        if note("run").is_none_or(|other| other != run) {
            return Err(Error::usage(format!(
                "{} holds an unfinished run with another model, other networks or settings: finish that one, name another \
                 folder with -o, or remove {}",
                folder.display(),
                path.display()
            )));
        }
        let n = note("n").and_then(|n| n.parse().ok()).ok_or_else(damaged)?;
        let sums = file.iter().map(|(name, view)| {
            let values = view.data().as_chunks::<8>().0.iter();
            let values = values.map(|bytes| f64::from_le_bytes(*bytes));
            (name.to_string(), values.collect())
        });
        Ok(Some(Self {
            n,
            sums: sums.collect(),
        }))
    }

    /// Writes it for `run`, whose description must be the same when it goes on.
    pub fn write(&self, folder: &Path, run: &str) -> Result<()> {
        let path = Self::path(folder);
        let failed = |error: safetensors::SafeTensorError| Error::invalid(&path, error.to_string());
        let bytes: Vec<Vec<u8>> = (self.sums.values())
            .map(|values| {
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            })
            .collect();
        let views = self.sums.keys().zip(&bytes).map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes);
            Ok((name, view.map_err(failed)?))
        });
        let notes = [("run", run.to_string()), ("n", self.n.to_string())];
        let notes: HashMap<_, _> = notes.map(|(key, note)| (key.to_string(), note)).into();
        let file = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(notes));
        atomic::write(&path, &file.map_err(failed)?)
    }

    /// Removes what a finished run has no use for.
    pub fn remove(folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&path)(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_was_and_no_other_does() {
        let folder = tempfile::tempdir().unwrap();
        assert!(State::read(folder.path(), "run").unwrap().is_none());
        let sums = BTreeMap::from([
            ("a".to_string(), vec![0.1, -2e300]),
            ("b".to_string(), vec![]),
        ]);
        State {
            n: 7,
            sums: sums.clone(),
        }
        .write(folder.path(), "run")
        .unwrap();
        let state = State::read(folder.path(), "run").unwrap().unwrap();
        assert_eq!((state.n, state.sums), (7, sums));
        let other = State::read(folder.path(), "other").err().unwrap();
        assert!(matches!(other, Error::Usage(_)), "{other}");
        let path = folder.path().join("unfinished.safetensors");
        fs::write(&path, "damaged").unwrap();
        let damaged = State::read(folder.path(), "run").err().unwrap().to_string();
        assert!(
            damaged.contains("unfinished.safetensors: damaged"),
            "{damaged}"
        );
        State::remove(folder.path()).unwrap();
        State::remove(folder.path()).unwrap();
        assert!(!path.exists());
    }
}
