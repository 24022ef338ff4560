//! What each benchmark's prompt file looks like, and which names its scorer looks for.

mod flat;
mod genai_bench;
mod geneval;
mod mjhq_30k;
mod parti;
mod vbench;

use std::{collections::HashSet, path::Path};

use super::prompt_file::PromptFile;
use crate::{Error, Result, engine::VisualKind, safe_path};

/// No file system that is in use takes longer names, in bytes.
const LONGEST_NAME: usize = 255;

/// The benchmarks whose files are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// GenEval (arXiv 2310.11513): `00000/samples/0000.png`, `00000/metadata.jsonl`.
    GenEval,
    /// GenAI-Bench (arXiv 2406.13743): `00000.jpeg`.
    GenAiBench,
    /// MJHQ-30K (arXiv 2402.17245): `CATEGORY/KEY.png`.
    Mjhq30k,
    /// VBench (arXiv 2311.17982): `videos/PROMPT-0.mp4`.
    VBench,
    /// PartiPrompts (arXiv 2206.10789): `00000.png`.
    Parti,
    /// A prompt a line: `00000.png` or `00000.mp4`.
    Flat,
}

/// A prompt, and what is to be generated of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its place among the prompts of the file, from 0.
    pub index: usize,
    pub text: String,
    /// The file of every sample, relative to the folder of all, with `/` between folders.
    pub files: Vec<String>,
    /// Name and content of a text file that the scorer wants beside them.
    pub sidecar: Option<(String, String)>,
}

impl Layout {
    pub const ALL: [Self; 6] = [
        Self::GenEval,
        Self::GenAiBench,
        Self::Mjhq30k,
        Self::VBench,
        Self::Parti,
        Self::Flat,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::GenEval => "geneval",
            Self::GenAiBench => "genai-bench",
            Self::Mjhq30k => "mjhq-30k",
            Self::VBench => "vbench",
            Self::Parti => "parti",
            Self::Flat => "flat",
        }
    }

    /// The layout of that name; a usage error if there is none.
    pub fn parse(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|layout| layout.name() == name);
        known.ok_or_else(|| Error::usage(format!("{name} is no layout of a benchmark")))
    }

    /// What it is made of; where both are possible, videos if `video`. A usage error for videos of a benchmark of
    /// images.
    pub fn kind(self, video: bool) -> Result<VisualKind> {
        match self {
            Self::VBench => Ok(VisualKind::Video),
            Self::Flat if video => Ok(VisualKind::Video),
            _ if video => Err(Error::usage(format!(
                "{} is a benchmark of images: leave --video out",
                self.name()
            ))),
            _ => Ok(VisualKind::Image),
        }
    }

    /// The prompts of the benchmark's own prompt file.
    ///
    /// - `kind`: what [`Self::kind`] says
    /// - `samples`: of each prompt \[as many as the benchmark scores\]
    ///
    /// Errors name the line or the entry at fault: no JSON, no prompt, a name that leads out of the folder, the same
    /// name for two prompts; and where there are no prompts at all.
    pub fn prompts(
        self,
        path: &Path,
        kind: VisualKind,
        samples: Option<usize>,
    ) -> Result<Vec<Prompt>> {
        let file = PromptFile::read(path)?;
        let prompts = match self {
            Self::GenEval => geneval::prompts(&file, samples),
            Self::GenAiBench => genai_bench::prompts(&file, samples),
            Self::Mjhq30k => mjhq_30k::prompts(&file, samples),
            Self::VBench => vbench::prompts(&file, samples),
            Self::Parti => parti::prompts(&file, samples),
            Self::Flat => Ok(flat::prompts(&file, kind, samples)),
        }?;
        if prompts.is_empty() {
            return Err(file.invalid("there are no prompts in it"));
        }
        let mut names = HashSet::new();
        let mut all = prompts.iter().flat_map(|prompt| &prompt.files);
        match all.find(|name| !names.insert(name.as_str())) {
            Some(twice) => Err(file.invalid(format!("two prompts would be written to {twice}"))),
            None => Ok(prompts),
        }
    }
}

/// The files of a prompt of which the scorer looks at one: `NAME.ENDING`; of more, `NAME-1.ENDING` and so on.
fn numbered(name: &str, ending: &str, samples: Option<usize>) -> Vec<String> {
    let file = |sample: usize| match sample {
        0 => format!("{name}.{ending}"),
        _ => format!("{name}-{sample}.{ending}"),
    };
    (0..samples.unwrap_or(1)).map(file).collect()
}

/// Refuses a name from the file that is not that of one file or folder.
fn check_name(file: &PromptFile, name: &str) -> Result<()> {
    let one = safe_path::relative(name).is_some() && !name.contains(['/', '\0']);
    if one && name.len() <= LONGEST_NAME {
        Ok(())
    } else {
        Err(file.invalid(format!("{name:?} cannot be the name of a file")))
    }
}
