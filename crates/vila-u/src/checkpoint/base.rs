//! A base language model as Hugging Face has it: one folder with `config.json`, weights and tokenizer.

use burn::tensor::Device;

use super::{
    config, files::Files, keys::Component, weight_dtype::WeightDtype, weights::ComponentWeights,
};
use crate::{
    Result,
    language::{Llama, LlamaConfig},
    text::Tokenizer,
};

/// A language model that knows nothing of pictures yet: what a VILA-U is made from.
#[derive(Debug)]
pub struct BaseModel {
    pub config: LlamaConfig,
    pub model: Llama,
    pub tokenizer: Tokenizer,
}

/// Loads a model of the LLaMA architecture (`model_type` `llama`): LLaMA 2 and 3, TinyLlama, SmolLM2. The
/// `llm` folder of a VILA-U checkpoint is one too.
///
/// ```no_run
/// # fn main() -> vila_u::Result<()> {
/// use vila_u::checkpoint::{Files, WeightDtype, load_base};
///
/// let files = Files::folder("models/smollm2-135m-instruct");
/// let base = load_base(&files, &vila_u::device::select("cpu")?, WeightDtype::F32)?;
/// println!("{:?}", base.tokenizer.encode("The capital of France is"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// One error that names the file and the field or tensor at fault.
pub fn load_base(files: &Files, device: &Device, weight_dtype: WeightDtype) -> Result<BaseModel> {
    let config = config::read_base(files)?;
    let tokenizer = config::tokenizer(files)?;
    config::check_vocabulary(files, &config, &tokenizer)?;
    let mut model = config.init(device);
    ComponentWeights::check_folder(files, Component::Llm, &model)?
        .load(&mut model, weight_dtype)?;
    Ok(BaseModel {
        config,
        model,
        tokenizer,
    })
}
