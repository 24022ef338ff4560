//! Tensors of all ranks, gathered within a forward pass.

use burn::tensor::{Int, Tensor, TensorData};

use super::ProcessGroup;
use super::message::{self, Kind};

impl ProcessGroup {
    /// The rows of all ranks, in their order: `[n, width]` -> `[ranks * n, width]`. They are constants.
    ///
    /// Inside a forward pass nothing can be done about a rank that is gone: then a rank's own rows
    /// stand for those of the others, and the next call that can fail does.
    pub fn all_gather_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        if self.world_size() == 1 {
            return rows;
        }
        let (device, [n, width]) = (rows.device(), rows.dims());
        let data = rows.into_data_as::<f32>();
        let own: Vec<f32> = data.iter().collect();
        let messages = vec![message::bytes(std::iter::once(&own[..])); self.world_size()];
        let received = self.exchange(Kind::Rows, own.len() as u64, messages);
        let all = match received {
            Ok(all) => all.iter().flat_map(|one| message::floats(one)).collect(),
            Err(_) => own.repeat(self.world_size()),
        };
        Tensor::from_data(
            TensorData::new(all, [self.world_size() * n, width]),
            &device,
        )
    }

    /// The same of rows that are learned: a rank's own are no constants. Each rank then computes the whole
    /// loss; since gradients become means over the ranks, those of its own rows count as many times.
    pub fn all_gather_rows_with_grad(&self, own: Tensor<2>) -> Tensor<2> {
        if self.world_size() == 1 {
            return own;
        }
        let [n, _] = own.dims();
        let all = self.all_gather_rows(own.clone().detach());
        let ranks = self.world_size();
        // Nothing, with a gradient.
        let learned = (own.clone() - own.detach()) * ranks as f64;
        let mut parts = all.chunk(ranks, 0);
        let place = &mut parts[self.rank()];
        debug_assert_eq!(place.dims()[0], n);
        *place = place.clone() + learned;
        Tensor::cat(parts, 0)
    }

    /// The codes of all ranks, in their order: `[n]` -> `[ranks * n]`, each below 2^24.
    pub fn all_gather_codes(&self, codes: Tensor<1, Int>) -> Tensor<1, Int> {
        if self.world_size() == 1 {
            return codes;
        }
        let rows = self.all_gather_rows(codes.float().unsqueeze_dim(1));
        rows.squeeze_dim::<1>(1).int()
    }
}
