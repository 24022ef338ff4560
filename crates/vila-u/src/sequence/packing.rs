//! Which samples share a row, so that short samples do not pad the long ones' rows.

/// Packs samples of these lengths into rows: longest first, each appended to the open row while it
/// fits into `capacity` positions, else starting the next (greedy next-fit). Equal lengths keep
/// their order. A sample longer than `capacity` gets a row of its own.
///
/// Returns the indices of every row's samples; each index appears exactly once.
pub(super) fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let mut used = 0;
    for sample in order {
        match rows.last_mut() {
            Some(row) if used + lengths[sample] <= capacity => {
                row.push(sample);
                used += lengths[sample];
            }
            _ => {
                rows.push(vec![sample]);
                used = lengths[sample];
            }
        }
    }
    rows
}
