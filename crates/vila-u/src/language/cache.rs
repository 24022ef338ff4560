//! The keys and values of every layer, kept so that a new token only computes its own.

use burn::tensor::{DType, Device, Int, Tensor};

/// Room for `capacity` positions, allocated once; new positions are written in place.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<[Tensor<4>; 2]>, // keys and values, [batch, kv_heads, capacity, head_dim]
    length: usize,
}

impl KvCache {
    /// Empty buffers for `layers` layers, each of `[batch, kv_heads, capacity, head_dim]`.
    pub fn new(layers: usize, shape: [usize; 4], dtype: DType, device: &Device) -> Self {
        let empty = || Tensor::zeros(shape, (device, dtype));
        Self {
            layers: (0..layers).map(|_| [empty(), empty()]).collect(),
            length: 0,
        }
    }

    /// Positions filled so far.
    pub fn filled(&self) -> usize {
        self.length
    }

    /// Forgets every position; the buffers stay.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all positions after the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Writes the new positions' keys and values `[batch, kv_heads, new, head_dim]` of one layer,
    /// and returns that layer's keys and values of all positions up to the new ones.
    ///
    /// # Panics
    /// When the new positions do not fit in the capacity.
    pub(crate) fn append(&mut self, layer: usize, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let [_, _, count, _] = new[0].dims();
        let end = self.length + count;
        let mut new = new.into_iter();
        self.layers[layer].each_mut().map(|buffer| {
            if let Some(new) = new.next() {
                let [batch, heads, _, head_dim] = new.dims();
                let place = [0..batch, 0..heads, self.length..end, 0..head_dim];
                // The buffer is owned here alone, so this writes without copying it.
                buffer.inplace(|buffer| buffer.slice_assign(place, new));
            }
            buffer.clone().narrow(2, 0, end)
        })
    }

    /// Counts positions as filled, after every layer has appended them.
    pub fn advance(&mut self, count: usize) {
        self.length += count;
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, |[keys, _]| keys.dims()[2])
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> u64 {
        let tensors = self.layers.iter().flatten();
        let bytes = tensors.map(|t| t.shape().num_elements() * t.dtype().size());
        bytes.sum::<usize>() as u64
    }

    /// A copy of the first `length` positions with room for `capacity`.
    pub fn copy_of(&self, length: usize, capacity: usize) -> Self {
        let copy = |old: &Tensor<4>| {
            let [batch, heads, _, head_dim] = old.dims();
            let place = [0..batch, 0..heads, 0..length, 0..head_dim];
            let shape = [batch, heads, capacity, head_dim];
            Tensor::zeros(shape, (&old.device(), old.dtype()))
                .slice_assign(place, old.clone().narrow(2, 0, length))
        };
        Self {
            layers: self.layers.iter().map(|l| l.each_ref().map(copy)).collect(),
            length,
        }
    }

    /// A cache with room for `capacity` positions whose row `i` continues this one's row `rows[i]`.
    pub fn fork(&self, rows: &Tensor<1, Int>, capacity: usize) -> Self {
        let select = |buffer: &Tensor<4>| {
            let filled = buffer.clone().narrow(2, 0, self.length);
            filled.select(0, rows.clone())
        };
        let layers = self.layers.iter().map(|l| l.each_ref().map(select));
        let selected = Self {
            layers: layers.collect(),
            length: self.length,
        };
        selected.copy_of(self.length, capacity)
    }

    /// A cache with room for `capacity` positions: the rows of this one, then those of `other`. Both end
    /// at the same position; a shorter one begins later, after zeros that are to be hidden as padding.
    pub fn beside(&self, other: &Self, capacity: usize) -> Self {
        let length = self.length.max(other.length);
        let join = |(own, others): (&Tensor<4>, &Tensor<4>)| {
            let [batch, heads, _, head_dim] = own.dims();
            let [more, ..] = others.dims();
            let shape = [batch + more, heads, capacity, head_dim];
            let empty = Tensor::zeros(shape, (&own.device(), own.dtype()));
            let places = [(own, self.length, 0), (others, other.length, batch)];
            places
                .into_iter()
                .fold(empty, |joined, (part, filled, first)| {
                    let [rows, ..] = part.dims();
                    let rows = first..first + rows;
                    let place = [rows, 0..heads, length - filled..length, 0..head_dim];
                    joined.slice_assign(place, part.clone().narrow(2, 0, filled))
                })
        };
        let layers = self.layers.iter().zip(&other.layers);
        Self {
            layers: layers
                .map(|(own, others)| [join((&own[0], &others[0])), join((&own[1], &others[1]))])
                .collect(),
            length,
        }
    }
}
