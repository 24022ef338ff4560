//! Which checkpoint: what `--model` takes, and how it becomes files.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use serde::Deserialize;

use super::{config, files::Files, keys::Component, nano, released, weight_files};
use crate::{Error, Result, model::VilaUConfig, safe_path};

/// A checkpoint by name: `nano`, a folder, or `hf:ORG/NAME[@REV]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model compiled into the program.
    Nano,
    Folder(PathBuf),
    /// A repository of the Hugging Face Hub, from the local cache (`HF_HUB_CACHE`, `HF_HOME/hub`,
    /// `~/.cache/huggingface/hub`) when it is there, else downloaded into it.
    Hub {
        repository: Repository,
    },
}

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// `ORG/NAME` at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    organisation: String,
    name: String,
    revision: String,
}

impl Source {
    /// # Errors
    /// When `text` is none of the three.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "nano" {
            return Ok(Self::Nano);
        }
        match text.strip_prefix("hf:") {
            Some(repository) => Ok(Self::Hub {
                repository: repository.parse()?,
            }),
            None if text.is_empty() => Err(Error::usage(
                "the model is empty: give `nano`, a folder, or hf:ORG/NAME[@REV]",
            )),
            None => Ok(Self::Folder(text.into())),
        }
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        // These become parts of paths.
        let word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && !word.contains("..")
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        match id.split_once('/') {
            Some((organisation, name))
                if word(organisation) && word(name) && revision.split('/').all(word) =>
            {
                Ok(Self {
                    organisation: organisation.into(),
                    name: name.into(),
                    revision: revision.into(),
                })
            }
            _ => Err(Error::usage(format!(
                "`hf:{text}` is not hf:ORG/NAME or hf:ORG/NAME@REVISION"
            ))),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

impl Source {
    /// The files of the checkpoint, downloaded first if need be; `progress` is then told the bytes
    /// done and the bytes in all.
    ///
    /// # Errors
    /// When there is no such folder, or the Hub cannot be reached and the cache does not have it.
    pub fn files(&self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Result<Files> {
        match self {
            Self::Nano => Ok(nano::files()),
            Self::Folder(folder) if folder.is_dir() => Ok(Files::folder(folder)),
            Self::Folder(folder) => Err(Error::invalid(
                folder,
                "no such folder (a model is `nano`, a folder, or hf:ORG/NAME[@REV])",
            )),
            Self::Hub { repository } => repository.snapshot(progress),
        }
    }
}

/// What is known of a checkpoint without downloading anything.
pub enum Known {
    Files(Files),
    /// The sizes of a released model.
    Released(Box<VilaUConfig>),
}

impl Source {
    /// The files that are there, or the sizes of a released model that is not.
    ///
    /// # Errors
    /// When there is no such folder, or the model of the Hub is neither in the cache nor a released one.
    pub fn known(&self) -> Result<Known> {
        let Self::Hub { repository } = self else {
            return self.files(|_, _| {}).map(Known::Files);
        };
        let cached = repository.cached(&cache_dir());
        let folder = Component::VisionTower.folder();
        if let Some(files) = cached.filter(|files| files.join(folder).contains("config.json")) {
            return Ok(Known::Files(files));
        }
        match released::sizes(&repository.name) {
            Ok(config) => Ok(Known::Released(Box::new(config))),
            Err(_) => Err(Error::failed(format!(
                "the sizes of hf:{repository} are not known before it is in the Hugging Face cache: \
                 `vila-u info hf:{repository}` gets it"
            ))),
        }
    }
}

impl Repository {
    /// All files, from the cache if they are all there.
    fn snapshot(&self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Result<Files> {
        if let Some(files) = self.cached(&cache_dir())
            && is_complete(&files)
        {
            return Ok(files);
        }
        let list = self.online(|repo| {
            let list = repo.info_request().query("blobs", "true").call();
            let list = list.and_then(|answer| answer.into_body().read_to_string());
            list.map_err(|error| Box::new(error).into())
        })?;
        let listed: Listed = serde_json::from_str(&list).map_err(|error| {
            self.unreachable(format!("its list of files is not valid: {error}"))
        })?;
        let total = listed.siblings.iter().filter_map(|file| file.size).sum();
        let mut done = 0;
        for file in &listed.siblings {
            // These become paths in the cache.
            if safe_path::relative(&file.rfilename).is_none() {
                return Err(self.unreachable(format!("it lists a file {:?}", file.rfilename)));
            }
            let meter = Meter {
                before: done,
                file: 0,
                total,
                progress: &progress,
            };
            self.online(|repo| repo.download_with_progress(&file.rfilename, meter))?;
            done += file.size.unwrap_or(0);
        }
        self.cached(&cache_dir())
            .ok_or_else(|| self.unreachable("it lists no files"))
    }

    /// One file, from the cache if it is there.
    pub fn file(&self, name: &str) -> Result<Files> {
        if let Some(files) = self.cached(&cache_dir())
            && files.contains(name)
        {
            return Ok(files);
        }
        let path = self.online(|repo| repo.download(name))?;
        Ok(Files::folder(path.parent().unwrap_or(Path::new("."))))
    }

    /// The folder of this revision in the cache, complete or not.
    fn cached(&self, cache: &Path) -> Option<Files> {
        let Self {
            organisation, name, ..
        } = self;
        let folder = cache.join(format!("models--{organisation}--{name}"));
        // A revision is a commit, or a name whose commit the cache has noted.
        let commit = fs::read_to_string(folder.join("refs").join(&self.revision));
        let commit = commit.as_deref().map_or(self.revision.as_str(), str::trim);
        let snapshots = folder.join("snapshots");
        let snapshot = snapshots.join(safe_path::relative(commit)?);
        if snapshot.is_dir() {
            return Some(Files::folder(snapshot));
        }
        // A cache that was copied may have lost its note of what the main branch is.
        let mut entries = fs::read_dir(snapshots)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        let only = entries
            .next()
            .filter(|_| self.revision == MAIN && entries.next().is_none())?;
        only.is_dir().then(|| Files::folder(only))
    }

    fn online<T>(
        &self,
        work: impl FnOnce(ApiRepo) -> std::result::Result<T, ApiError>,
    ) -> Result<T> {
        if env::var("HF_HUB_OFFLINE").is_ok_and(|v| !v.is_empty() && v != "0") {
            return Err(self.unreachable("HF_HUB_OFFLINE is set"));
        }
        let id = format!("{}/{}", self.organisation, self.name);
        let repo = Repo::with_revision(id, RepoType::Model, self.revision.clone());
        let mut builder = ApiBuilder::from_cache(Cache::new(cache_dir())).with_progress(false);
        if let Ok(token) = env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        if let Ok(endpoint) = env::var("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint);
        }
        let outcome = builder.build().and_then(|api| work(api.repo(repo)));
        outcome.map_err(|error| self.unreachable(error.to_string().replace('\n', " ")))
    }

    fn unreachable(&self, reason: impl fmt::Display) -> Error {
        Error::failed(format!(
            "{self} is not in the Hugging Face cache, and getting it failed: {reason}. Check the \
             name and the network, or download it elsewhere and give the folder"
        ))
    }
}

/// The Hugging Face cache: `HF_HUB_CACHE`, `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
fn cache_dir() -> PathBuf {
    let folder = |name| {
        env::var_os(name)
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from)
    };
    folder("HF_HUB_CACHE")
        .or_else(|| Some(folder("HF_HOME")?.join("hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")))
        .unwrap_or_else(|| ".cache/huggingface/hub".into())
}

/// The files of a repository, as the Hub lists them.
#[derive(Deserialize)]
struct Listed {
    siblings: Vec<ListedFile>,
}

#[derive(Deserialize)]
struct ListedFile {
    rfilename: String,
    /// Bytes.
    size: Option<u64>,
}

/// Whether nothing is missing that a download would bring: of a whole model, or of a SigLIP that a tower
/// begins with.
fn is_complete(files: &Files) -> bool {
    if config::is_siglip(files) {
        return files.contains("spiece.model") && weight_files::is_complete(files);
    }
    let llm = files.join("llm");
    files.contains("config.json")
        && (llm.contains("tokenizer.model") || llm.contains("tokenizer.json"))
        && [Component::Llm, Component::Projector, Component::VisionTower]
            .map(|component| files.join(component.folder()))
            .iter()
            .all(|folder| folder.contains("config.json") && weight_files::is_complete(folder))
}

/// Tells the bytes of one file on its way, beside those of the files before it.
struct Meter<'a, F> {
    before: u64,
    file: u64,
    total: u64,
    progress: &'a F,
}

impl<F: Fn(u64, u64)> hf_hub::api::Progress for Meter<'_, F> {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.file = 0;
    }

    fn update(&mut self, size: usize) {
        self.file += size as u64;
        (self.progress)((self.before + self.file).min(self.total), self.total);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
