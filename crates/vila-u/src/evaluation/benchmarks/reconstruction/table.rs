//! The result for people.

use crate::evaluation::record::EvaluationRecord;

use super::measured::name;

/// The columns: heading, metric, decimals. What was not measured is left out.
const COLUMNS: [(&str, &str, usize); 8] = [
    ("rFID", "rfid", 3),
    ("rFID-768", "rfid-768", 3),
    ("rFID-192", "rfid-192", 3),
    ("rFID-64", "rfid-64", 3),
    ("IS", "inception-score", 2),
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("LPIPS", "lpips", 4),
];

/// A row for the first code of each position, the first two, and so on; after them how much of the codebook each depth
/// uses.
pub fn table(record: &EvaluationRecord) -> String {
    let depths = record
        .settings
        .get("depths")
        .and_then(|depths| depths.as_u64());
    let depths = depths.unwrap_or(0) as usize;
    let value = |metric: &str| record.metric(metric).map(|metric| metric.value);
    let columns = COLUMNS
        .iter()
        .filter(|(_, metric, _)| value(metric).is_some());
    let mut header = "codes".to_string();
    columns
        .clone()
        .for_each(|(heading, ..)| header += &format!("{heading:>10}"));
    let mut lines = vec![header + "      used perplexity"];
    for depth in 0..depths {
        let mut line = format!("{:5}", depth + 1);
        for (_, metric, decimals) in columns.clone() {
            line += &match value(&name(metric, depth, depths)) {
                Some(value) => format!("{value:10.decimals$}"),
                None => format!("{:>10}", "-"),
            };
        }
        let at = |measure: &str| value(&format!("{measure}@{}", depth + 1)).unwrap_or(f64::NAN);
        let (used, perplexity) = (100.0 * at("codes-used"), at("perplexity"));
        lines.push(line + &format!("{used:9.1}% {perplexity:10.1}"));
    }
    let n = record.data.iter().find_map(|data| data.n).unwrap_or(0);
    let skipped: usize = record.skipped.values().sum();
    lines.push(match skipped {
        0 => format!("{n} pictures"),
        _ => format!("{n} pictures, {skipped} left out"),
    });
    if let Some(score) = value("inception-score-original") {
        lines.push(format!("inception score of the originals: {score:.2}"));
    }
    lines.join("\n")
}
