//! The parameters of a module, each with its path: the names of the fields that lead to it, joined by dots.
//!
//! Burn's own visitors tell of one name after the other; here is the one place that puts them together.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// What is known of a parameter before it is initialised.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub path: String,
    pub id: ParamId,
    pub shape: Vec<usize>,
}

impl Parameter {
    /// How many numbers it has.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every parameter in the module's order; none of them is initialised by this.
pub(crate) fn list<M: Module>(module: &M) -> Vec<Parameter> {
    struct List(Vec<Parameter>);
    impl Visitor for List {
        fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            self.0.push(Parameter {
                path: path.into(),
                id: param.id,
                shape: param.lazy_shape().to_vec(),
            });
        }
    }
    let mut list = List(Vec::new());
    visit(module, &mut list);
    list.0
}

/// Looks at parameters.
pub(crate) trait Visitor {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>);
}

/// Shows every parameter to the visitor, in the module's order.
pub(crate) fn visit<M: Module>(module: &M, visitor: &mut impl Visitor) {
    module.visit(&mut Walk::new(visitor));
}

/// Replaces parameters.
pub(crate) trait Mapper {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// The module with what the mapper makes of every parameter, in the module's order.
pub(crate) fn map<M: Module>(module: M, mapper: &mut impl Mapper) -> M {
    module.map(&mut Walk::new(mapper))
}

/// A traversal that knows where it is.
struct Walk<'a, T> {
    names: Vec<String>,
    inner: &'a mut T,
}

impl<'a, T> Walk<'a, T> {
    fn new(inner: &'a mut T) -> Self {
        Self {
            names: Vec::new(),
            inner,
        }
    }
}

impl<T: Visitor> ModuleVisitor for Walk<'_, T> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.visit(&self.names.join("."), param);
    }
}

impl<T: Mapper> ModuleMapper for Walk<'_, T> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.names.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.map(&self.names.join("."), param)
    }
}
