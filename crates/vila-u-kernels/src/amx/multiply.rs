//! The instructions that multiply tiles.

use std::arch::asm;

use super::{BLOCK, BlockShape, DEPTH, Row, SIDE, Shape, Sums};

/// Adds up the products of `depth` pairs of tiles, two of the left factor (4 and 5) and two of the right one (6 and 7),
/// in four tiles (0 to 3), and stores these at `sums`. `start` says where the sums begin: at `zero`, or at those that are
/// `stored`. The instructions of `load` fill the pairs, and those of `next` go on to the next ones; `row` is 64, the bytes
/// of a row of a tile.
///
/// The caller says why memory outside of what it has is neither read nor written.
macro_rules! multiply_tiles {
    (start: zero, $($rest:tt)*) => {
        multiply_tiles!(
            start: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"], $($rest)*
        )
    };
    (start: stored, $($rest:tt)*) => {
        multiply_tiles!(
            start: [
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 64]",
                "tileloadd tmm2, [{sums} + {line} + 2048]",
                "tileloadd tmm3, [{sums} + {line} + 2112]"
            ],
            $($rest)*
        )
    };
    (start: [$($start:literal),*], load: [$($load:literal),*], next: [$($next:literal),*], depth: $depth:expr, sums: $sums:expr, $($operands:tt)*) => {
        asm!(
            $($start,)*
            "2:",
            $($load,)*
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            $($next,)*
            "dec {depth}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            $($operands)*
            depth = inout(reg) $depth => _,
            sums = in(reg) $sums.0.as_mut_ptr(),
            row = in(reg) 64_usize,
            line = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

/// Multiplies blocks of tiles that lie one after the other.
macro_rules! blocks {
    ($start:ident, $left:ident, $right:ident, $sums:ident) => {
        assert!($left.len() == $right.len() && $left.len() >= BLOCK && $left.len().is_multiple_of(BLOCK));
        // SAFETY: the shape of the tiles is set; tiles are read within both slices, and sums written within theirs.
        unsafe {
            multiply_tiles!(
                start: $start,
                load: [
                    "tileloadd tmm4, [{left} + {row}]",
                    "tileloadd tmm6, [{right} + {row}]",
                    "tileloadd tmm7, [{right} + {row} + 1024]",
                    "tileloadd tmm5, [{left} + {row} + 1024]"
                ],
                next: ["add {left}, 2048", "add {right}, 2048"],
                depth: $left.len() / BLOCK,
                sums: $sums,
                left = inout(reg) $left.as_ptr() => _,
                right = inout(reg) $right.as_ptr() => _,
            );
        }
    };
}

/// The product of a block of the left factor and one of the right, `[depth][2]` tiles each; `add`: to the sums that are
/// there.
pub(super) fn multiply(_: &Shape, left: &[Row], right: &[Row], sums: &mut Sums, add: bool) {
    if add {
        blocks!(stored, left, right, sums);
    } else {
        blocks!(zero, left, right, sums);
    }
}

/// Multiplies blocks of tiles with signals.
macro_rules! signals {
    ($start:ident, $left:ident, $signals:ident, $length:ident, $offsets:ident, $sums:ident) => {
        let last = $offsets.iter().max().map_or(0, |last| *last);
        assert!(!$offsets.is_empty() && $left.len() == BLOCK * $offsets.len());
        assert!(last + (SIDE - 1) * $length + BLOCK <= $signals.len());
        // SAFETY: the shape of the tiles is set; tiles are read within both slices, and sums written within theirs.
        unsafe {
            multiply_tiles!(
                start: $start,
                load: [
                    "mov {right}, [{offsets}]",
                    "lea {right}, [{signals} + 4 * {right}]",
                    "tileloadd tmm4, [{left} + {row}]",
                    "tileloadd tmm6, [{right} + {length}]",
                    "tileloadd tmm7, [{right} + {length} + 64]",
                    "tileloadd tmm5, [{left} + {row} + 1024]"
                ],
                next: ["add {left}, 2048", "add {offsets}, 8"],
                depth: $offsets.len(),
                sums: $sums,
                left = inout(reg) $left.as_ptr() => _,
                offsets = inout(reg) $offsets.as_ptr() => _,
                right = out(reg) _,
                signals = in(reg) $signals.as_ptr(),
                length = in(reg) 4 * $length,
            );
        }
    };
}

/// The product of the left factor's tiles `[depth][2]` and of right ones that lie in signals of pairs: from one row of
/// such a tile to the next are `length` pairs, and `offsets` says where they begin; `add`: to the sums that are there.
pub(crate) fn multiply_signals(
    _: &Shape,
    left: &[Row],
    signals: &[f32],
    length: usize,
    offsets: &[usize],
    sums: &mut Sums,
    add: bool,
) {
    if add {
        signals!(stored, left, signals, length, offsets, sums);
    } else {
        signals!(zero, left, signals, length, offsets, sums);
    }
}

/// Sums along signals: of the left factor, 32 signals of bfloat16, `length` numbers from one to the next; of the right
/// one, two runs of pairs of numbers, sixteen signals side by side. `depth` tiles of each.
pub(crate) fn multiply_along(
    _: &Shape,
    left: &[u16],
    length: usize,
    right: [&[Row]; 2],
    depth: usize,
    sums: &mut Sums,
) {
    assert!(depth > 0 && (BLOCK - 1) * length + depth * DEPTH <= left.len());
    assert!(right.iter().all(|right| depth * SIDE <= right.len()));
    // SAFETY: the shape of the tiles is set; tiles are read within the slices, and sums written within theirs.
    unsafe {
        multiply_tiles!(
            start: zero,
            load: [
                "tileloadd tmm4, [{upper} + {length}]",
                "tileloadd tmm6, [{first} + {row}]",
                "tileloadd tmm7, [{second} + {row}]",
                "tileloadd tmm5, [{lower} + {length}]"
            ],
            next: ["add {upper}, 64", "add {lower}, 64", "add {first}, 1024", "add {second}, 1024"],
            depth: depth,
            sums: sums,
            upper = inout(reg) left.as_ptr() => _,
            lower = inout(reg) left[SIDE * length..].as_ptr() => _,
            first = inout(reg) right[0].as_ptr() => _,
            second = inout(reg) right[1].as_ptr() => _,
            length = in(reg) 2 * length,
        );
    }
}

/// The product of sixteen rows of 32 signed bytes with unsigned ones of sixteen columns, which lie in fours:
/// `[8][16][4]`.
pub(crate) fn multiply_block(
    _: &BlockShape,
    rows: &[[i8; 32]; SIDE],
    columns: &[u8; 32 * SIDE],
    products: &mut [[i32; SIDE]; SIDE],
) {
    // SAFETY: the shape of the tiles is set; they are as large as what is read and written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm1, [{rows} + {row}]",
            "tileloadd tmm2, [{columns} + {line}]",
            "tdpbsud tmm0, tmm1, tmm2",
            "tilestored [{products} + {line}], tmm0",
            rows = in(reg) rows.as_ptr(),
            columns = in(reg) columns.as_ptr(),
            products = in(reg) products.as_mut_ptr(),
            row = in(reg) 32_usize,
            line = in(reg) 64_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _,
            options(nostack)
        );
    }
}
