//! How a kernel over plain `f32` slices becomes a differentiable function on Burn tensors.
//!
//! A kernel knows nothing of automatic differentiation: it turns inputs into an output and, later,
//! the output's gradient into the inputs' gradients. This file looks where the tensors live:
//!
//! - all on the CPU backend, `f32`, not recorded: run `forward`;
//! - the same, recorded for gradients: run `forward` and register `backward` as one graph node;
//! - anything else (a GPU, another precision): hand the inputs back, so that the caller composes
//!   the same function from Burn's own operations.

use burn::backend::autodiff::{
    checkpoint::{
        base::Checkpointer,
        strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, Flex, GradientCheckpointingStrategy, TensorMetadata, flex::FlexTensor,
    tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, TensorData};
use std::{fmt::Debug, marker::PhantomData};

use crate::contiguous::in_order;
use crate::instruction_set::InstructionSet;

/// A differentiable function of `N` CPU tensors.
pub(crate) trait Kernel<const N: usize>: Clone + Send + Debug + 'static {
    /// What `backward` needs besides the output's gradient.
    type Saved: Clone + Send + Debug + 'static;

    /// The output, and what to keep for `backward`. Every input is contiguous.
    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Saved);

    /// The gradient of each input, where it is wanted. `grad` is contiguous.
    fn backward(
        &self,
        saved: Self::Saved,
        grad: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// What became of a call to a kernel.
pub(crate) enum Outcome<const N: usize> {
    Done(DispatchTensor),
    /// The kernel does not run on these inputs, which come back untouched.
    Unsupported([DispatchTensor; N]),
}

/// Runs `kernel` if all `inputs` are `f32` tensors of the CPU backend, and the CPU has vectors that this
/// build uses.
pub(crate) fn run<const N: usize, K: Kernel<N>>(
    kernel: K,
    inputs: [DispatchTensor; N],
) -> Outcome<N> {
    if !inputs.iter().all(is_cpu_f32) {
        return Outcome::Unsupported(inputs);
    }
    let context = inputs
        .iter()
        .fold(DispatchAutodiffContext::Disabled, |all, one| {
            all.merge(one.autodiff)
        });
    let kind = match context {
        DispatchAutodiffContext::Disabled => {
            let inputs = inputs.map(|tensor| match tensor.kind {
                DispatchTensorKind::Flex(tensor) => in_order(&tensor.float()),
                _ => unreachable!("is_cpu_f32 saw a CPU tensor"),
            });
            return Outcome::Done(dispatch(kernel.forward(inputs).0));
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled) => {
            record::<N, K, NoCheckpointing>(kernel, inputs)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            record::<N, K, BalancedCheckpointing>(kernel, inputs)
        }
    };
    Outcome::Done(DispatchTensor {
        kind,
        autodiff: context,
    })
}

/// Would a kernel take this tensor?
pub(crate) fn is_cpu_f32(tensor: &DispatchTensor) -> bool {
    let kind = match &tensor.kind {
        DispatchTensorKind::Autodiff(inner) => inner.as_ref(),
        kind => kind,
    };
    // With the CPU as the only backend of a build the pattern always matches.
    #[allow(irrefutable_let_patterns)]
    if let DispatchTensorKind::Flex(BackendTensor::Float(_) | BackendTensor::Autodiff(_)) = kind {
        tensor.dtype() == DType::F32 && InstructionSet::used() != InstructionSet::Plain
    } else {
        false
    }
}

/// Does this tensor, of the CPU backend, lie in memory row after row?
pub(crate) fn is_contiguous(tensor: &DispatchTensor) -> bool {
    let kind = match &tensor.kind {
        DispatchTensorKind::Autodiff(inner) => inner.as_ref(),
        kind => kind,
    };
    #[allow(irrefutable_let_patterns)]
    if let DispatchTensorKind::Flex(tensor) = kind {
        match tensor {
            BackendTensor::Float(tensor) => tensor.is_contiguous(),
            BackendTensor::Autodiff(tensor) => tensor.clone().into_primitive().is_contiguous(),
            _ => false,
        }
    } else {
        false
    }
}

/// A floating-point tensor of the CPU backend that is not recorded for gradients.
pub(crate) fn untracked(tensor: &DispatchTensor) -> Option<FlexTensor> {
    match &tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Some(tensor.clone()),
        _ => None,
    }
}

/// The way back from [`untracked`].
pub(crate) fn dispatch(tensor: FlexTensor) -> DispatchTensor {
    DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(tensor)),
        autodiff: DispatchAutodiffContext::Disabled,
    }
}

/// Runs the kernel and adds it to the graph, when some input needs a gradient.
fn record<const N: usize, K: Kernel<N>, C: CheckpointStrategy>(
    kernel: K,
    inputs: [DispatchTensor; N],
) -> DispatchTensorKind {
    let inputs: [FloatTensor<Autodiff<Flex, C>>; N] = inputs.map(|tensor| match tensor.kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(tensor) => tensor.autodiff(),
            _ => unreachable!("is_cpu_f32 saw a CPU tensor"),
        },
        // A tensor from outside the graph is a constant in it.
        DispatchTensorKind::Flex(tensor) => {
            <Autodiff<Flex, C> as AutodiffBackend>::from_inner(tensor.float())
        }
        #[allow(unreachable_patterns)]
        _ => unreachable!("is_cpu_f32 saw a CPU tensor"),
    });
    let nodes = inputs.each_ref().map(|tensor| tensor.node());
    let (output, saved) = kernel.forward(inputs.map(|tensor| in_order(&tensor.into_primitive())));
    let output = match Step::<K>(PhantomData)
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((kernel, saved), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(BackendTensor::Autodiff(
        output,
    ))))
}

/// The graph node of a kernel.
#[derive(Debug)]
struct Step<K>(PhantomData<fn() -> K>);

impl<const N: usize, K: Kernel<N>> Backward<Flex, N> for Step<K> {
    type State = (K, K::Saved);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = in_order(&grads.consume::<Flex>(&ops.node));
        let (kernel, saved) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let input_grads = kernel.backward(saved, grad, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(input_grads) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// The numbers of a contiguous `f32` tensor.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    match tensor.as_slice::<f32>() {
        Some(values) => values,
        None => unreachable!("the bridge hands out contiguous f32 tensors"),
    }
}

/// A tensor of these numbers.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// The dimensions of a tensor known to have `D` of them.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}
