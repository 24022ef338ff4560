//! How pictures and videos are sampled, wherever a request may say it.

use vila_u::{GenerateOptions, generation::sampling::Sampling};

use crate::errors::ApiError;

/// Beyond this weight there is nothing but the numbers' ends.
const MAX_GUIDANCE: f64 = 100.0;

/// What a request says. The rest is the model's own choice.
#[derive(Default)]
pub struct SamplingParams {
    pub cfg: Option<f64>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub greedy: Option<bool>,
}

impl SamplingParams {
    /// Checked before the request waits.
    pub fn options(self, seed: u64) -> Result<GenerateOptions, ApiError> {
        let mut options = GenerateOptions::default();
        [options.temperature, options.top_p] = check(self.temperature, self.top_p, self.cfg)?;
        options.guidance = self.cfg;
        options.top_k = self.top_k;
        options.greedy = self.greedy.unwrap_or(false);
        options.seed = Some(seed);
        Ok(options)
    }
}

/// The seed of a request, or a new one of few enough digits for every JSON reader.
pub fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| rand::random::<u32>().into())
}

/// Temperature and top-p as the model takes them; refuses what no token can be sampled with.
pub fn check(
    temperature: Option<f64>,
    top_p: Option<f64>,
    cfg: Option<f64>,
) -> Result<[Option<f64>; 2], ApiError> {
    // No token at all would be left: clients mean the most probable one.
    let [temperature, top_p] = match top_p {
        Some(0.0) => [Some(0.0), None],
        _ => [temperature, top_p],
    };
    let check = |temperature: Option<f64>, top_p, param: &str| {
        let sampling = Sampling {
            temperature: temperature.unwrap_or(1.0),
            top_p,
            ..Sampling::GREEDY
        };
        let checked = sampling.check();
        checked.map_err(|error| ApiError::from(error).param(param))
    };
    check(temperature, None, "temperature")?;
    check(None, top_p, "top_p")?;
    match cfg {
        Some(cfg) if cfg.abs() > MAX_GUIDANCE => Err(ApiError::invalid(format!(
            "guidance {cfg} must be from -{MAX_GUIDANCE} to {MAX_GUIDANCE}"
        ))
        .param("cfg")),
        _ => Ok([temperature, top_p]),
    }
}
