//! Unigram segmentation: the pieces whose scores (log probabilities) have the largest sum, found by
//! dynamic programming over the ends of pieces.

use std::ops::Range;

use super::{Kind, SentencePiece};

/// How much worse than the worst piece a character outside the vocabulary scores.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to reach one end: the piece that starts at `start`.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    start: usize,
}

/// The pieces of `text` in order, as byte ranges that cover it.
pub(super) fn segment(model: &SentencePiece, text: &str) -> Vec<Range<usize>> {
    let normal = || {
        let pieces = model
            .pieces
            .iter()
            .filter(|piece| piece.kind == Kind::Normal);
        pieces.map(|piece| piece.score)
    };
    let worst = normal().fold(f32::INFINITY, f32::min);
    let best = normal().fold(f32::NEG_INFINITY, f32::max);
    let longest = model.ids.keys().map(String::len).max().unwrap_or(0);

    let mut ends: Vec<Option<Best>> = vec![None; text.len() + 1];
    for (start, first) in text.char_indices() {
        let so_far = ends[start].map_or(0.0, |best| best.score);
        let mut offer = |end: usize, score: f64| {
            let score = score + so_far as f64;
            if ends[end].is_none_or(|best| score > best.score as f64) {
                ends[end] = Some(Best {
                    score: score as f32,
                    start,
                });
            }
        };
        let mut single = false;
        for end in start + first.len_utf8()..=text.len().min(start + longest) {
            let Some(&id) = text.get(start..end).and_then(|piece| model.ids.get(piece)) else {
                continue;
            };
            let piece = &model.pieces[id];
            match piece.kind {
                Kind::Unused => continue,
                // A bonus that no other path can reach.
                Kind::UserDefined => offer(end, ((end - start) as f32 * best) as f64 - 0.1),
                _ => offer(end, piece.score as f64),
            }
            single |= end == start + first.len_utf8();
        }
        if !single {
            offer(start + first.len_utf8(), (worst - UNKNOWN_PENALTY) as f64);
        }
    }

    let mut segments = Vec::new();
    let mut end = text.len();
    while let Some(best) = ends[end] {
        segments.push(best.start..end);
        end = best.start;
    }
    segments.reverse();
    segments
}
