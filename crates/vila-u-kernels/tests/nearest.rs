//! The search for nearest rows against a plain one.

mod every_instruction_set;

use burn::tensor::{Device, Distribution, Tensor};
use vila_u_kernels::nearest;

fn random(shape: [usize; 2]) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// The nearest row is the one that a plain search finds; of two that are equally near, the first.
#[test]
fn nearest_rows() {
    for [n, rows, channels] in [[1, 5, 3], [7, 64, 16], [33, 513, 96], [70, 1000, 33]] {
        let vectors = random([n, channels]);
        let table = random([rows, channels]);
        // The row after the last choice would be found if it were one; the last choice repeats the first.
        let first = table.clone().narrow(0, 0, 1);
        let choices = rows + 1;
        let all = Tensor::cat(vec![table, first, vectors.clone().narrow(0, 0, 1)], 0);
        let codes: Vec<i64> = nearest(vectors.clone(), all.clone(), choices)
            .into_data()
            .iter::<i64>()
            .collect();
        let (vectors, all) = (vectors.into_data(), all.into_data());
        let vectors: Vec<f64> = vectors.iter::<f64>().collect();
        let all: Vec<f64> = all.iter::<f64>().collect();
        for (vector, code) in vectors.chunks(channels).zip(codes) {
            let distance = |row: &[f64]| -> f64 {
                let pairs = vector.iter().zip(row);
                pairs.map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let distances: Vec<f64> = all.chunks(channels).take(choices).map(distance).collect();
            let least = distances.iter().copied().fold(f64::MAX, f64::min);
            let distance = distances[code as usize];
            assert!(distance <= least * (1.0 + 1e-5), "{n} {rows} {channels}");
            assert!(
                (code as usize) < rows,
                "the repeated row was taken for the first"
            );
        }
    }
}

/// Rows that cannot be told apart: the first, or the first of the nearer ones.
#[test]
fn equal_rows() {
    let row = random([1, 40]);
    let equal = row.clone().repeat_dim(0, 1500);
    let further = row.clone() + 1e-3;
    let all = Tensor::cat(vec![further, equal], 0);
    let vectors = row.repeat_dim(0, 20);
    let codes = nearest(vectors, all, 1501).into_data();
    assert_eq!(codes.iter::<i64>().collect::<Vec<_>>(), [1; 20]);
    let nothing = Tensor::zeros([600, 40], &Device::flex());
    let codes = nearest(random([17, 40]), nothing, 600).into_data();
    assert_eq!(codes.iter::<i64>().collect::<Vec<_>>(), [0; 17]);
}
