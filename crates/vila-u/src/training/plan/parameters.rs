//! Parameters by part, and what the optimizer does with them.

use burn::module::Module;
use serde::Serialize;

use crate::parameters;
use crate::parts::ModelPart;

#[derive(Clone, Debug, Serialize)]
pub struct PartPlan {
    pub name: &'static str,
    pub trained: u64,
    pub frozen: u64,
}

/// How many parameters there are.
#[derive(Default)]
pub(super) struct ParameterCount {
    /// Trained and frozen, in the order of [`ModelPart::ALL`].
    parts: [[u64; 2]; ModelPart::ALL.len()],
    pub(super) decayed: u64,
    /// Trained inside the language model's layers.
    pub(super) layers: u64,
}

impl ParameterCount {
    pub(super) fn of<M: Module>(model: &M, is_trained: &dyn Fn(&str) -> bool) -> Self {
        let mut counted = Self::default();
        for parameter in parameters::list(model) {
            let (path, numbers) = (&parameter.path, parameter.count() as u64);
            let trained = is_trained(path);
            let part = ModelPart::of(path);
            if let Some(part) = ModelPart::ALL.iter().position(|one| part == Some(*one)) {
                counted.parts[part][usize::from(!trained)] += numbers;
            }
            if trained && parameter.shape.len() >= 2 {
                counted.decayed += numbers;
            }
            if trained && path.starts_with("llm.model.layers.") {
                counted.layers += numbers;
            }
        }
        counted
    }

    pub(super) fn trained(&self) -> u64 {
        self.parts.iter().map(|[trained, _]| trained).sum()
    }

    pub(super) fn frozen(&self) -> u64 {
        self.parts.iter().map(|[_, frozen]| frozen).sum()
    }

    /// Of parts that the model has.
    pub(super) fn parts(&self) -> Vec<PartPlan> {
        let parts = ModelPart::ALL.into_iter().zip(self.parts);
        let parts = parts.map(|(part, [trained, frozen])| PartPlan {
            name: part.name(),
            trained,
            frozen,
        });
        parts
            .filter(|part| part.trained + part.frozen > 0)
            .collect()
    }
}
