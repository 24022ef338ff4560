#![allow(clippy::unwrap_used)]

use std::thread;

use burn::tensor::{Device, Tensor};

use super::*;

/// What every rank returns, each on a thread of its own.
fn together<T: Send>(count: usize, work: impl Fn(ProcessGroup) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let start = |group| scope.spawn(move || work(group));
        let running: Vec<_> = threads(count).into_iter().map(start).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn numbers_become_their_means_in_the_same_way_everywhere() {
    // Of several rounds, the last chunk not full.
    const LENGTH: usize = 300 * CHUNK + 5;
    let own = |rank: usize| -> Vec<f32> {
        let number = |n: usize| (rank as f32 + 0.1) * (n as f32).sin();
        (0..LENGTH).map(number).collect()
    };
    for ranks in [2, 3] {
        let means = together(ranks, |group| {
            let mut list = own(group.rank());
            let chunks = Chunks { first: 7, ranks };
            group.reduce_scatter_mean(&mut list, chunks).unwrap();
            let shard: Vec<f32> = chunks.of(group.rank(), &list).flatten().copied().collect();
            let whole = group.gather_chunks(&shard, LENGTH, chunks).unwrap();
            group.all_gather_chunks(&mut list, chunks).unwrap();
            assert!(whole.is_empty() != group.is_main());
            assert!(!group.is_main() || whole == list);
            list
        });
        // One after the other, in the order of the ranks: to the bit.
        let mut expected = own(0);
        for rank in 1..ranks {
            let sums = expected.iter_mut().zip(own(rank));
            sums.for_each(|(sum, other)| *sum += other);
        }
        expected
            .iter_mut()
            .for_each(|sum| *sum *= 1.0 / ranks as f32);
        assert!(means.iter().all(|mean| *mean == expected), "{ranks} ranks");
    }
}

fn around(ranks: usize) -> Chunks {
    Chunks { first: 0, ranks }
}

#[test]
fn values_and_rows_come_in_the_order_of_the_ranks() {
    let device = Device::flex().autodiff();
    let seen = together(3, |ranks| {
        let own = ranks.rank();
        let all = ranks.all_gather((own, format!("rank {own}"))).unwrap();
        let any = ranks.any(own == 2).unwrap();
        let codes = Tensor::from_data([own as i64, 10 + own as i64], &device);
        let codes: Vec<i64> = ranks.all_gather_codes(codes).into_data().iter().collect();
        let rows = Tensor::<2>::from_data([[own as f32]], &device).require_grad();
        let all_rows = ranks.all_gather_rows_with_grad(rows.clone());
        let loss = (all_rows.clone() * Tensor::from_data([[1.0], [2.0], [3.0]], &device)).sum();
        let gradient = rows.grad(&loss.backward()).unwrap().into_scalar::<f32>();
        let values: Vec<f32> = all_rows.into_data().iter().collect();
        assert!(ranks.check_equal("the seeds", || 5).is_ok());
        (all[2].1.clone(), any, codes, values, gradient)
    });
    for (own, (name, any, codes, values, gradient)) in seen.into_iter().enumerate() {
        assert_eq!((name.as_str(), any), ("rank 2", true));
        assert_eq!(codes, [0, 10, 1, 11, 2, 12]);
        assert_eq!(values, [0.0, 1.0, 2.0]);
        // Three times, so that the mean over ranks is the whole.
        assert_eq!(gradient, 3.0 * (own as f32 + 1.0));
    }
}

#[test]
fn what_stops_one_stops_all_with_its_reason() {
    let reasons = together(3, |ranks| {
        if ranks.rank() == 1 {
            ranks.abort("no pictures");
            return String::new();
        }
        let device = Device::flex();
        // Within a forward pass it goes on, and shows after it.
        let rows = ranks.all_gather_rows(Tensor::from_data([[1.0_f32, 2.0]], &device));
        assert_eq!(rows.dims(), [3, 2]);
        let error = ranks
            .reduce_scatter_mean(&mut [0.0; 10], around(3))
            .unwrap_err();
        let error = error.to_string();
        ranks.abort(&error);
        error
    });
    assert_eq!(reasons, ["rank 1: no pictures", "", "rank 1: no pictures"]);
}

#[test]
fn a_rank_that_is_gone_or_differs_is_named() {
    let reasons = together(2, |ranks| match ranks.rank() {
        0 => ranks.all_gather(1).unwrap_err().to_string(),
        _ => String::new(),
    });
    assert!(reasons[0].starts_with("rank 1 is gone"), "{reasons:?}");
    let reasons = together(2, |ranks| {
        let differs = ranks.check_equal("the weights", || ranks.rank() as u64);
        differs.unwrap_err().to_string()
    });
    assert!(
        reasons.iter().all(|reason| reason.contains("rank 1")),
        "{reasons:?}"
    );
    let reasons = together(2, |ranks| {
        let mut list = vec![0.0; 2 + ranks.rank()];
        let outcome = ranks.reduce_scatter_mean(&mut list, around(2));
        outcome.unwrap_err().to_string()
    });
    assert!(
        reasons[0].contains("rank 1 is at another place")
            && reasons[0].contains("3 gradients (exchange 0), rank 0 2 gradients"),
        "{reasons:?}"
    );
    assert_eq!(reasons[0], reasons[1]);
    let reasons = together(3, |ranks| {
        let outcome = match ranks.rank() {
            2 => ranks.any(true).map(|_| ()),
            _ => ranks.reduce_scatter_mean(&mut [0.0], around(3)),
        };
        outcome.unwrap_err().to_string()
    });
    assert!(
        (reasons.iter()).all(|reason| reason.contains("rank 2 is at another place")),
        "{reasons:?}"
    );
}

#[test]
fn what_one_rank_cannot_do_is_known_to_all() {
    let outcomes = together(2, |ranks| {
        let done = match ranks.rank() {
            0 => Ok(()),
            _ => Err(Error::usage("no such device")),
        };
        ranks.agree(done).unwrap_err().to_string()
    });
    assert_eq!(outcomes, ["rank 1: no such device", "no such device"]);
    assert!(
        together(2, |ranks| ranks.agree(Ok(())).is_ok())
            .iter()
            .all(|ok| *ok)
    );
}

#[test]
fn one_rank_talks_to_nobody() {
    let ranks = ProcessGroup::default();
    let mut list = [1.0, 2.0];
    ranks.reduce_scatter_mean(&mut list, around(1)).unwrap();
    ranks.all_gather_chunks(&mut list, around(1)).unwrap();
    assert_eq!((list, ranks.all_gather(3).unwrap()), ([1.0, 2.0], vec![3]));
    assert!(ranks.is_main() && ranks.world_size() == 1);
}
