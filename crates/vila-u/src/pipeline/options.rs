//! How the model answers and generates, where it is not to be as its own `generation_config.json` says.

use crate::{
    checkpoint::config::GenerationConfig,
    generation::{sampling::Sampling, visual::VisualOptions},
};

/// How images and videos are generated. Whatever is left out is the model's own choice.
///
/// ```
/// let mut options = vila_u::GenerateOptions::default();
/// options.guidance = Some(3.0);
/// options.seed = Some(7);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Weight of classifier-free guidance; 1 turns it off, which takes half the time \[the model's own, 3\].
    pub guidance: Option<f64>,
    /// Sampling temperature; 0 always takes the most probable code \[the model's own, 1\].
    pub temperature: Option<f64>,
    /// Only the most probable codes, so many; 0 is all of them \[900\].
    pub top_k: Option<usize>,
    /// Only the fewest most probable codes with this total probability, in (0, 1\] \[0.96\].
    pub top_p: Option<f64>,
    /// Always take the most probable code, whatever the fields above say.
    pub greedy: bool,
    /// Seed of the random choices \[the pipeline's, or a new one each time\].
    pub seed: Option<u64>,
}

impl GenerateOptions {
    pub(crate) fn resolve(&self, own: &GenerationConfig, seed: u64) -> VisualOptions {
        let default = own.visual(seed);
        let sampling = if self.greedy {
            Sampling::GREEDY
        } else {
            Sampling {
                temperature: self.temperature.unwrap_or(default.sampling.temperature),
                top_k: match self.top_k {
                    None => default.sampling.top_k,
                    Some(k) => (k > 0).then_some(k),
                },
                top_p: self.top_p.or(default.sampling.top_p),
            }
        };
        VisualOptions {
            guidance: self.guidance.unwrap_or(default.guidance),
            sampling,
            ..default
        }
    }
}

/// How a question is answered. Whatever is left out is the model's own choice.
///
/// ```
/// let mut options = vila_u::AskOptions::default();
/// options.greedy = true;
/// options.max_tokens = 64;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AskOptions {
    /// The longest answer, in tokens of text; at least 1 \[256\].
    pub max_tokens: usize,
    /// Sampling temperature of the text; 0 always takes the most probable token \[the model's own\].
    pub temperature: Option<f64>,
    /// Only the fewest most probable tokens with this total probability, in (0, 1\] \[the model's own\].
    pub top_p: Option<f64>,
    /// Always take the most probable token and code, whatever else is said.
    pub greedy: bool,
    /// Weight of classifier-free guidance of images and videos in the answer; 1 turns it off \[the model's own\].
    pub guidance: Option<f64>,
    /// Seed of the random choices \[the pipeline's, or a new one each time\].
    pub seed: Option<u64>,
    /// Begin the prompt with the conversation template's system sentence \[true\].
    pub system_prompt: bool,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: None,
            top_p: None,
            greedy: false,
            guidance: None,
            seed: None,
            system_prompt: true,
        }
    }
}

impl AskOptions {
    /// How the text is sampled. A temperature or top-p asks for sampling where the model's own choice is none.
    pub(crate) fn text(&self, own: &GenerationConfig) -> Sampling {
        let asked = self.temperature.is_some() || self.top_p.is_some();
        if self.greedy || !(own.do_sample || asked) {
            return Sampling::GREEDY;
        }
        Sampling {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: (own.top_k > 0).then_some(own.top_k),
            top_p: Some(self.top_p.unwrap_or(own.top_p)),
        }
    }

    /// How images and videos in the answer are sampled.
    pub(crate) fn visual(&self, own: &GenerationConfig, seed: u64) -> VisualOptions {
        let options = GenerateOptions {
            guidance: self.guidance,
            greedy: self.greedy,
            ..GenerateOptions::default()
        };
        options.resolve(own, seed)
    }
}
