//! Tests of the kernels for Arm on their own, with stand-ins for the little of other crates that they need.

mod instruction_set {
    pub enum InstructionSet {
        Neon,
    }

    pub fn allows(_: InstructionSet) -> bool {
        true
    }
}

mod math {
    /// As the crate's, without the vectors.
    pub fn simd<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
}

#[path = "../../crates/vila-u-kernels/src/quantized"]
mod quantized {
    mod activations;
    mod neon;
    mod packed;
    mod portable;

    use activations::Activations;
    use burn::tensor::f16;
    use packed::{Group, LANES};

    pub const BLOCK: usize = 32;
    /// Of the group and the rows that are multiplied: not the first, which any would find.
    const INDEX: usize = 1;
    const FIRST: usize = 2;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum BlockFormat {
        Q8_0,
        Q4_0,
    }

    impl BlockFormat {
        pub const fn block_bytes(self) -> usize {
            match self {
                Self::Q8_0 => 2 + BLOCK,
                Self::Q4_0 => 2 + BLOCK / 2,
            }
        }
    }

    /// Bits that look random.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.0 >> 33) as u32
        }

        /// Rows of blocks of weights; with scales of 1, if they are to be `whole`.
        fn weights(&mut self, blocks: BlockFormat, row: usize, whole: bool) -> Vec<u8> {
            let rows = (INDEX + 1) * LANES;
            let mut bytes: Vec<u8> = (0..rows * row).map(|_| self.next() as u8).collect();
            for block in bytes.chunks_exact_mut(blocks.block_bytes()) {
                let (scale, q) = block.split_at_mut(2);
                // From 1/4 to 1, or one of the smallest that there are, of either sign.
                let bits = match self.next() {
                    _ if whole => 0x3c00,
                    random if random % 16 == 0 => random >> 8 & 0x83ff,
                    random => 0x3400 + (random >> 8 & 0x87ff),
                };
                scale.copy_from_slice(&(bits as u16).to_le_bytes());
                // All as far from 0 as can be, now and then.
                if self.next().is_multiple_of(8) {
                    q.fill(match blocks {
                        BlockFormat::Q8_0 => 0x80,
                        BlockFormat::Q4_0 => 0,
                    });
                }
            }
            bytes
        }

        /// Rows of numbers, about -1..1; that are rounded to themselves, if they are to be `whole`.
        fn numbers(&mut self, count: usize, whole: bool) -> Vec<f32> {
            (0..count)
                .map(|at| match self.next() {
                    _ if whole && at % BLOCK == 0 => 127.0,
                    random if whole => (random % 255) as f32 - 127.0,
                    random => random as f32 / (1 << 30) as f32 - 1.0,
                })
                .collect()
        }
    }

    /// Whole numbers give the very same sums, others the same to rounding.
    fn compare<const R: usize>(blocks: BlockFormat) {
        assert!(neon::is_here(), "this CPU has no dot products");
        let mut random = Random(R as u64);
        for count in [1, 2, 3, 4, 19, 31, 64, 172] {
            // Below 2^24, whole numbers are exact.
            for whole in [false, true]
                .into_iter()
                .take(if count < 32 { 2 } else { 1 })
            {
                let columns = count * BLOCK;
                let x = random.numbers((FIRST + R) * columns, whole);
                let x = Activations::new(&x, columns);
                let row = count * blocks.block_bytes();
                let weights = random.weights(blocks, row, whole);
                let mut packed = vec![0; packed::size(weights.len() / row, row)];
                packed::pack(blocks, &weights, row, &mut packed);
                let group = Group::new(blocks, &packed, row, INDEX);
                let mut wanted = [[1.0; LANES]; R];
                portable::dot(blocks, &x, group, FIRST, &mut wanted);
                let mut sums = [[1.0; LANES]; R];
                // SAFETY: the CPU has what it needs.
                unsafe { neon::dot(blocks, &x, group, FIRST, &mut sums) };
                if whole {
                    assert_eq!(sums, wanted, "{count} blocks");
                    continue;
                }
                let sizes = sizes::<R>(blocks, &x, group);
                let (sums, wanted) = (sums.as_flattened(), wanted.as_flattened());
                for ((sum, wanted), size) in sums.iter().zip(wanted).zip(sizes.as_flattened()) {
                    let off = (sum - wanted).abs() / size;
                    assert!(off < 1e-6, "{count} blocks: {sum}, not {wanted}");
                }
            }
        }
    }

    /// What the sums are the sums of, without signs.
    fn sizes<const R: usize>(
        blocks: BlockFormat,
        x: &Activations,
        group: Group,
    ) -> [[f32; LANES]; R] {
        let mut sizes = [[1.0; LANES]; R];
        for (index, (scales, words)) in group.blocks().enumerate() {
            let w = packed::integers(blocks, words);
            for (r, row) in x.rows::<R>(FIRST).iter().enumerate() {
                for (lane, size) in sizes[r].iter_mut().enumerate() {
                    let products = w.iter().zip(&row.q[index]);
                    let product: i32 = products
                        .map(|(w, q)| i32::from(w[lane]) * i32::from(*q))
                        .sum();
                    let scale = [scales[2 * lane], scales[2 * lane + 1]];
                    let scale = f16::from_le_bytes(scale).to_f32() * row.scales[index];
                    *size += (scale * product as f32).abs();
                }
            }
        }
        sizes
    }

    macro_rules! rows {
        ($($name:ident: $rows:literal),*) => {$(
            #[test]
            fn $name() {
                compare::<$rows>(BlockFormat::Q8_0);
                compare::<$rows>(BlockFormat::Q4_0);
            }
        )*};
    }
    rows!(one: 1, two: 2, three: 3, four: 4, five: 5, six: 6, seven: 7, eight: 8);
}
