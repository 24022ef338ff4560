//! Matrix products on two or more threads: `c = a b`, with either factor read transposed.
//!
//! Both factors are copied into panels, the left one of a tile's rows and the right one of its width, so
//! that the inner loop reads both in order. The tile's sums stay in registers along the inner
//! dimension, which is cut into blocks that leave the panels in cache (Goto and van de Geijn 2008).
//! Each thread has a part of the product to itself and packs the right panels of its columns for
//! itself: they stay in its own cache. In mixed precision a panel holds pairs of neighbours along the
//! inner dimension.

mod blocks;
mod few_rows;
pub(crate) mod kept;
mod kernel;
mod panels;

use burn::tensor::{DType, bf16};
use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::math::registers;
use crate::precision::{dispatch, paired_with};
pub(crate) use blocks::{OutputBlock, in_blocks};
use few_rows::few_rows;
use kernel::MacroKernel;
use panels::{KBlock, left_panels, pack, pack_left};

/// Calls a function for the rows of a tile and the width of a panel on this machine: as many sums as
/// its registers hold besides the factors.
macro_rules! tiled {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match registers() {
            32.. => $function::<8, 48>($($argument),*),
            _ => $function::<6, 16>($($argument),*),
        }
    };
}

/// Right panels packed at once: half of a usual second-level cache.
const PANELS_AT_ONCE: usize = 16;
/// Numbers that one thread should pack at least.
const PACKED_TOGETHER: usize = 1 << 15;

/// Fewer rows than this are multiplied without packing.
pub(crate) const MIN_ROWS: usize = 32;

/// What a matrix is stored as.
pub(crate) trait Element: Copy + Sync {
    const DTYPE: DType;

    fn to_f32(self) -> f32;

    /// The matrix, if its numbers are `f32`.
    fn as_f32(_matrix: Matrix<Self>) -> Option<Matrix> {
        None
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    fn as_f32(matrix: Matrix<Self>) -> Option<Matrix> {
        Some(matrix)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix stored by rows, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    pub data: &'a [T],
    /// Of the matrix as it is used, after transposition.
    pub rows: usize,
    pub columns: usize,
    pub transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        debug_assert_eq!(data.len(), rows * columns);
        Self {
            data,
            rows,
            columns,
            transposed: false,
        }
    }

    pub fn transpose(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
        }
    }
}

thread_local! {
    /// Panels of the product at hand; kept, because a fresh allocation costs as much as filling it.
    static RIGHT: RefCell<Packed> = const { RefCell::new(Packed::new()) };
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `a b`, plus `bias` on every row.
pub(crate) fn gemm<T: Element>(a: Matrix, b: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
    if a.rows < MIN_ROWS
        && !a.transposed
        && !b.transposed
        && let Some(b) = T::as_f32(b)
    {
        return few_rows(a, b, bias);
    }
    let paired = paired_with(T::DTYPE);
    #[cfg(target_arch = "x86_64")]
    if paired && amx::available() {
        return amx::gemm(a, b, bias);
    }
    tiled!(tiled_gemm(a, b, bias, paired))
}

/// `a` times a packed matrix, plus `bias` on every row.
pub(crate) fn gemm_packed(a: Matrix, b: &Packed, bias: Option<&[f32]>) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if b.paired && amx::available() {
        return b.tiles.gemm(a, bias);
    }
    tiled!(tiled_gemm_packed(a, b, bias))
}

fn tiled_gemm_packed<const ROWS: usize, const PANEL: usize>(
    a: Matrix,
    b: &Packed,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut left = LEFT.take();
    let whole = pack_left_parallel::<ROWS>(a, b.paired, &mut left);
    let compute = |block: &mut OutputBlock| {
        let mut lines = block.start(bias);
        let panels = block.columns.start / PANEL * PANEL * whole.depth();
        for k_block in KBlock::of(a.columns, b.paired, PANEL) {
            let kernel = MacroKernel::<ROWS, PANEL> {
                left: &left[block.row / ROWS * ROWS * whole.depth()..],
                left_step: ROWS * whole.depth(),
                left_from: ROWS * k_block.before(),
                right: &b.panels[panels..],
                right_step: PANEL * whole.depth(),
                right_from: PANEL * k_block.before(),
                depth: k_block.depth(),
                column: 0,
                width: block.columns.len(),
                lines: &mut lines,
            };
            dispatch(kernel, b.paired);
        }
    };
    // SAFETY: all lines are started.
    let c = unsafe { in_blocks([a.rows, b.columns], [ROWS, PANEL], compute) };
    LEFT.set(left);
    c
}

/// All of `a` as panels of `ROWS` rows, on all threads.
fn pack_left_parallel<const ROWS: usize>(a: Matrix, paired: bool, left: &mut Vec<f32>) -> KBlock {
    let whole = KBlock::whole(a.columns, paired);
    left_panels::<ROWS>(a, whole, left)
        .par_chunks_mut(whole.depth().max(1))
        .with_min_len(PACKED_TOGETHER.div_ceil(whole.depth().max(1) * ROWS))
        .enumerate()
        .for_each(|panel| pack_left(a, whole, panel));
    whole
}

fn tiled_gemm<const ROWS: usize, const PANEL: usize>(
    a: Matrix,
    b: Matrix<impl Element>,
    bias: Option<&[f32]>,
    paired: bool,
) -> Vec<f32> {
    let mut left = LEFT.take();
    let whole = pack_left_parallel::<ROWS>(a, paired, &mut left);
    let compute = |block: &mut OutputBlock| {
        RIGHT.with_borrow_mut(|right| {
            let mut lines = block.start(bias);
            let end = block.columns.end;
            for first in block.columns.clone().step_by(PANELS_AT_ONCE * PANEL) {
                let columns = first..end.min(first + PANELS_AT_ONCE * PANEL);
                for k_block in KBlock::of(a.columns, paired, PANEL) {
                    right.fill::<PANEL>(b, columns.clone(), k_block);
                    let kernel = MacroKernel::<ROWS, PANEL> {
                        left: &left[block.row / ROWS * ROWS * whole.depth()..],
                        left_step: ROWS * whole.depth(),
                        left_from: ROWS * k_block.before(),
                        right: &right.panels,
                        right_step: PANEL * k_block.depth(),
                        right_from: 0,
                        depth: k_block.depth(),
                        column: first - block.columns.start,
                        width: columns.len(),
                        lines: &mut lines,
                    };
                    dispatch(kernel, paired);
                }
            }
        });
    };
    // SAFETY: all lines are started.
    let c = unsafe { in_blocks([a.rows, b.columns], [ROWS, PANEL], compute) };
    LEFT.set(left);
    c
}

/// `c += a b` on this thread alone, with `paired` factors or not.
pub(crate) fn gemm_accumulate(a: Matrix, b: Matrix, c: &mut [f32], paired: bool) {
    let mut right = RIGHT.replace(Packed::new());
    right.pack(b, paired);
    right.gemm_accumulate(a, c);
    RIGHT.set(right);
}

/// A matrix laid out to be the right factor of products.
pub(crate) struct Packed {
    /// `[panel][depth][PANEL]`, and whatever was there before.
    panels: Vec<f32>,
    /// Instead of the panels, on a tile unit.
    #[cfg(target_arch = "x86_64")]
    tiles: amx::Packed,
    inner: usize,
    columns: usize,
    paired: bool,
}

impl Packed {
    pub const fn new() -> Self {
        Self {
            panels: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            tiles: amx::Packed::new(),
            inner: 0,
            columns: 0,
            paired: false,
        }
    }

    pub fn pack<T: Element>(&mut self, b: Matrix<T>, paired: bool) {
        (self.inner, self.columns, self.paired) = (b.rows, b.columns, paired);
        #[cfg(target_arch = "x86_64")]
        if paired && amx::available() {
            return self.tiles.pack(b);
        }
        let whole = KBlock::whole(b.rows, paired);
        match registers() {
            32.. => self.fill::<48>(b, 0..b.columns, whole),
            _ => self.fill::<16>(b, 0..b.columns, whole),
        }
    }

    /// The same on all threads.
    pub fn pack_parallel<T: Element>(&mut self, b: Matrix<T>, paired: bool) {
        (self.inner, self.columns, self.paired) = (b.rows, b.columns, paired);
        #[cfg(target_arch = "x86_64")]
        if paired && amx::available() {
            return self.tiles.pack_parallel(b);
        }
        match registers() {
            32.. => self.fill_parallel::<48>(b),
            _ => self.fill_parallel::<16>(b),
        }
    }

    fn fill_parallel<const PANEL: usize>(&mut self, b: Matrix<impl Element>) {
        let whole = KBlock::whole(b.rows, self.paired);
        let size = b.columns.div_ceil(PANEL) * whole.depth() * PANEL;
        self.panels.resize(size.max(self.panels.len()), 0.0);
        let (panels, _) = self.panels[..size].as_chunks_mut::<PANEL>();
        panels
            .par_chunks_exact_mut(whole.depth().max(1))
            .enumerate()
            .for_each(|(index, panel)| {
                let first = index * PANEL;
                pack(b, first, PANEL.min(b.columns - first), whole, panel);
            });
    }

    /// What it is on a tile unit.
    #[cfg(target_arch = "x86_64")]
    pub fn tiles(&self) -> &[amx::Row] {
        self.tiles.tiles()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        let tiles = self.tiles.bytes();
        #[cfg(not(target_arch = "x86_64"))]
        let tiles = 0;
        size_of_val(self.panels.as_slice()) + tiles
    }

    /// Packs some columns of a block of the inner dimension.
    fn fill<const PANEL: usize>(
        &mut self,
        b: Matrix<impl Element>,
        columns: Range<usize>,
        k_block: KBlock,
    ) {
        let size = columns.len().div_ceil(PANEL) * k_block.depth() * PANEL;
        self.panels.resize(size.max(self.panels.len()), 0.0);
        let (panels, _) = self.panels[..size].as_chunks_mut::<PANEL>();
        for (panel, first) in panels
            .chunks_exact_mut(k_block.depth())
            .zip(columns.clone().step_by(PANEL))
        {
            pack(b, first, PANEL.min(columns.end - first), k_block, panel);
        }
    }

    /// `c += a b` on this thread alone.
    pub fn gemm_accumulate(&self, a: Matrix, c: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.paired && amx::available() {
            return self.tiles.gemm_accumulate(a, c);
        }
        tiled!(packed_gemm_accumulate(a, self, c));
    }
}

fn packed_gemm_accumulate<const ROWS: usize, const PANEL: usize>(
    a: Matrix,
    b: &Packed,
    c: &mut [f32],
) {
    let whole = KBlock::whole(b.inner, b.paired);
    let mut lines: Vec<_> = c.chunks_exact_mut(b.columns).collect();
    LEFT.with_borrow_mut(|left| {
        left_panels::<ROWS>(a, whole, left)
            .chunks_mut(whole.depth().max(1))
            .enumerate()
            .for_each(|panel| pack_left(a, whole, panel));
        for k_block in KBlock::of(b.inner, b.paired, PANEL) {
            let kernel = MacroKernel::<ROWS, PANEL> {
                left,
                left_step: ROWS * whole.depth(),
                left_from: ROWS * k_block.before(),
                right: &b.panels,
                right_step: PANEL * whole.depth(),
                right_from: PANEL * k_block.before(),
                depth: k_block.depth(),
                column: 0,
                width: b.columns,
                lines: &mut lines,
            };
            dispatch(kernel, b.paired);
        }
    });
}
