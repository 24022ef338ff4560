//! What a tower's run trains: the tower, and while it learns to reconstruct, the discriminator that judges it.

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use crate::tower::RqVaeSiglip;
use crate::training::losses::Discriminator;

#[derive(Clone, Debug)]
pub(crate) struct TowerWithDiscriminator {
    pub tower: RqVaeSiglip,
    pub discriminator: Option<Discriminator>,
}

/// Where the discriminator's parameters are.
pub(crate) const DISCRIMINATOR: &str = "discriminator";
const CONTAINER: &str = "Struct:TowerWithDiscriminator";

/// By hand, so that a parameter of the tower has the path that it has in a tower alone, which is its key in
/// checkpoints, and that of its moments in the optimizer's.
impl Module for TowerWithDiscriminator {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.discriminator
            .collect_devices(self.tower.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        Self {
            tower: self.tower.fork(device),
            discriminator: self.discriminator.fork(device),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        Self {
            tower: self.tower.to_device(device),
            discriminator: self.discriminator.to_device(device),
        }
    }

    fn train(self) -> Self {
        Self {
            tower: self.tower.train(),
            discriminator: self.discriminator.train(),
        }
    }

    fn valid(&self) -> Self {
        Self {
            tower: self.tower.valid(),
            discriminator: self.discriminator.valid(),
        }
    }

    fn materialize(self) -> Self {
        Self {
            tower: self.tower.materialize(),
            discriminator: self.discriminator.materialize(),
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.tower.visit(visitor);
        visitor.enter_module(DISCRIMINATOR, CONTAINER);
        self.discriminator.visit(visitor);
        visitor.exit_module(DISCRIMINATOR, CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let tower = self.tower.map(mapper);
        mapper.enter_module(DISCRIMINATOR, CONTAINER);
        let discriminator = Module::map(self.discriminator, mapper);
        mapper.exit_module(DISCRIMINATOR, CONTAINER);
        Self {
            tower,
            discriminator,
        }
    }
}
