//! The layers of Inception-v3 (arXiv 1512.00567) as the network of 2015-12-05 has them, by their names in PyTorch's
//! ports of it. It differs from torchvision's: means of 3x3 leave the border out of the count, and the last block
//! takes maxima instead.

use self::{Border::*, Step::*};

/// Height and width.
pub(super) type Kernel = [usize; 2];

/// One step of a branch.
pub(super) enum Step {
    /// A convolution of that name without bias, batch normalisation, ReLU.
    Conv(&'static str, Kernel, Border),
    /// Two of them on the same input; the channels of the second follow those of the first.
    Fork([(&'static str, Kernel); 2]),
    /// The mean of the 3x3 positions around each that are inside.
    Mean,
    /// The largest of 3x3 positions.
    Max(Border),
}

/// How a window goes over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Border {
    /// As many outputs as inputs.
    Padded,
    /// Inside only.
    Valid,
    /// Inside only, every second place.
    Halved,
}

/// Branches that have the same input; their channels follow each other.
pub(super) struct Block {
    /// Stands before the names of its convolutions.
    pub name: &'static str,
    pub branches: &'static [&'static [Step]],
}

const fn mixed(name: &'static str, branches: &'static [&'static [Step]]) -> Block {
    Block { name, branches }
}

/// The blocks up to each layer whose features are compared.
pub(super) const STAGES: [&[Block]; 4] = [
    &[mixed(
        "",
        &[&[
            Conv("Conv2d_1a_3x3", [3, 3], Halved),
            Conv("Conv2d_2a_3x3", [3, 3], Valid),
            Conv("Conv2d_2b_3x3", [3, 3], Padded),
            Max(Halved),
        ]],
    )],
    &[mixed(
        "",
        &[&[
            Conv("Conv2d_3b_1x1", [1, 1], Padded),
            Conv("Conv2d_4a_3x3", [3, 3], Valid),
            Max(Halved),
        ]],
    )],
    &[
        mixed("Mixed_5b.", A),
        mixed("Mixed_5c.", A),
        mixed("Mixed_5d.", A),
        mixed("Mixed_6a.", B),
        mixed("Mixed_6b.", C),
        mixed("Mixed_6c.", C),
        mixed("Mixed_6d.", C),
        mixed("Mixed_6e.", C),
    ],
    &[
        mixed("Mixed_7a.", D),
        mixed("Mixed_7b.", E1),
        mixed("Mixed_7c.", E2),
    ],
];

const A: &[&[Step]] = &[
    &[Conv("branch1x1", [1, 1], Padded)],
    &[
        Conv("branch5x5_1", [1, 1], Padded),
        Conv("branch5x5_2", [5, 5], Padded),
    ],
    &[
        Conv("branch3x3dbl_1", [1, 1], Padded),
        Conv("branch3x3dbl_2", [3, 3], Padded),
        Conv("branch3x3dbl_3", [3, 3], Padded),
    ],
    &[Mean, Conv("branch_pool", [1, 1], Padded)],
];

const B: &[&[Step]] = &[
    &[Conv("branch3x3", [3, 3], Halved)],
    &[
        Conv("branch3x3dbl_1", [1, 1], Padded),
        Conv("branch3x3dbl_2", [3, 3], Padded),
        Conv("branch3x3dbl_3", [3, 3], Halved),
    ],
    &[Max(Halved)],
];

const C: &[&[Step]] = &[
    &[Conv("branch1x1", [1, 1], Padded)],
    &[
        Conv("branch7x7_1", [1, 1], Padded),
        Conv("branch7x7_2", [1, 7], Padded),
        Conv("branch7x7_3", [7, 1], Padded),
    ],
    &[
        Conv("branch7x7dbl_1", [1, 1], Padded),
        Conv("branch7x7dbl_2", [7, 1], Padded),
        Conv("branch7x7dbl_3", [1, 7], Padded),
        Conv("branch7x7dbl_4", [7, 1], Padded),
        Conv("branch7x7dbl_5", [1, 7], Padded),
    ],
    &[Mean, Conv("branch_pool", [1, 1], Padded)],
];

const D: &[&[Step]] = &[
    &[
        Conv("branch3x3_1", [1, 1], Padded),
        Conv("branch3x3_2", [3, 3], Halved),
    ],
    &[
        Conv("branch7x7x3_1", [1, 1], Padded),
        Conv("branch7x7x3_2", [1, 7], Padded),
        Conv("branch7x7x3_3", [7, 1], Padded),
        Conv("branch7x7x3_4", [3, 3], Halved),
    ],
    &[Max(Halved)],
];

const E_FORK: Step = Fork([("branch3x3_2a", [1, 3]), ("branch3x3_2b", [3, 1])]);
const E_FORK_DOUBLE: Step = Fork([("branch3x3dbl_3a", [1, 3]), ("branch3x3dbl_3b", [3, 1])]);

const E1: &[&[Step]] = &[
    &[Conv("branch1x1", [1, 1], Padded)],
    &[Conv("branch3x3_1", [1, 1], Padded), E_FORK],
    &[
        Conv("branch3x3dbl_1", [1, 1], Padded),
        Conv("branch3x3dbl_2", [3, 3], Padded),
        E_FORK_DOUBLE,
    ],
    &[Mean, Conv("branch_pool", [1, 1], Padded)],
];

const E2: &[&[Step]] = &[
    &[Conv("branch1x1", [1, 1], Padded)],
    &[Conv("branch3x3_1", [1, 1], Padded), E_FORK],
    &[
        Conv("branch3x3dbl_1", [1, 1], Padded),
        Conv("branch3x3dbl_2", [3, 3], Padded),
        E_FORK_DOUBLE,
    ],
    &[Max(Padded), Conv("branch_pool", [1, 1], Padded)],
];

/// Every convolution of the network by its name, in the order of computation.
pub(super) fn convolutions() -> impl Iterator<Item = String> {
    let blocks = STAGES.iter().flat_map(|blocks| blocks.iter());
    blocks.flat_map(|block| {
        let steps = block.branches.iter().flat_map(|steps| steps.iter());
        steps.flat_map(|step| {
            let names = match step {
                Conv(name, ..) => vec![*name],
                Fork(both) => both.map(|(name, _)| name).to_vec(),
                Mean | Max(_) => Vec::new(),
            };
            names
                .into_iter()
                .map(|name| format!("{}{name}", block.name))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ninety_four_convolutions() {
        let names: Vec<String> = convolutions().collect();
        assert_eq!(names.len(), 94);
        assert_eq!(names[0], "Conv2d_1a_3x3");
        assert_eq!(names[93], "Mixed_7c.branch_pool");
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), 94);
    }
}
