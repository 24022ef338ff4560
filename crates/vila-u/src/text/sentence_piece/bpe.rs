//! Byte-pair segmentation: start from characters, and merge the neighbours whose union is the piece
//! with the best score (the leftmost of equals) until no union is a piece.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

use super::{Kind, SentencePiece};

/// A stretch of the text in a doubly linked list; one that was merged into its left neighbour is
/// empty.
struct Symbol {
    range: Range<usize>,
    left: Option<usize>,
    right: Option<usize>,
    /// A user-defined piece, which never merges.
    frozen: bool,
}

/// Two neighbours that could become one piece of `length` bytes.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |pair: &Pair| Reverse(pair.left);
        self.score
            .total_cmp(&other.score)
            .then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// The pieces of `text` in order, as byte ranges that cover it.
pub(super) fn segment(model: &SentencePiece, text: &str) -> Vec<Range<usize>> {
    let mut symbols = characters(model, text);
    let mut merges = HashMap::new();
    let mut pairs = BinaryHeap::new();
    for right in 1..symbols.len() {
        pairs.extend(pair(model, text, &symbols, &mut merges, right - 1, right));
    }
    while let Some(Pair {
        left,
        right,
        length,
        ..
    }) = pairs.pop()
    {
        let (a, b) = (symbols[left].range.clone(), symbols[right].range.clone());
        // Pairs are not removed when one of their symbols changes: skip those that are outdated.
        if a.is_empty() || b.is_empty() || a.len() + b.len() != length {
            continue;
        }
        symbols[left].range = a.start..b.end;
        symbols[right].range = b.end..b.end;
        let next = symbols[right].right;
        symbols[left].right = next;
        if let Some(next) = next {
            symbols[next].left = Some(left);
            pairs.extend(pair(model, text, &symbols, &mut merges, left, next));
        }
        if let Some(previous) = symbols[left].left {
            pairs.extend(pair(model, text, &symbols, &mut merges, previous, left));
        }
    }
    let mut segments = Vec::new();
    for symbol in symbols {
        if !symbol.range.is_empty() {
            split_unused(model, text, &merges, symbol.range, &mut segments);
        }
    }
    segments
}

fn characters(model: &SentencePiece, text: &str) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let whole = model.user_defined_prefix(rest);
        let length = whole.map_or_else(
            || rest.chars().next().map_or(1, char::len_utf8),
            |piece| piece.len(),
        );
        let index = symbols.len();
        symbols.push(Symbol {
            range: at..at + length,
            left: index.checked_sub(1),
            right: (at + length < text.len()).then_some(index + 1),
            frozen: whole.is_some(),
        });
        at += length;
    }
    symbols
}

/// The candidate that two neighbours make. A union that is an unused piece is merged all the same
/// and remembered in `merges`, to be taken apart again at the end.
fn pair<'a>(
    model: &SentencePiece,
    text: &'a str,
    symbols: &[Symbol],
    merges: &mut HashMap<&'a str, usize>,
    left: usize,
    right: usize,
) -> Option<Pair> {
    let (a, b) = (&symbols[left], &symbols[right]);
    if a.frozen || b.frozen {
        return None;
    }
    let union = &text[a.range.start..b.range.end];
    let piece = &model.pieces[*model.ids.get(union)?];
    if piece.kind == Kind::Unused {
        merges.insert(union, a.range.len());
    }
    Some(Pair {
        score: piece.score,
        left,
        right,
        length: union.len(),
    })
}

/// Takes unused pieces apart, into the pieces they were merged from.
fn split_unused(
    model: &SentencePiece,
    text: &str,
    merges: &HashMap<&str, usize>,
    range: Range<usize>,
    segments: &mut Vec<Range<usize>>,
) {
    let mut stack = vec![range];
    while let Some(range) = stack.pop() {
        let piece = &text[range.clone()];
        let unused =
            (model.ids.get(piece)).is_some_and(|&id| model.pieces[id].kind == Kind::Unused);
        match merges.get(piece) {
            Some(left) if unused => {
                let middle = range.start + left;
                stack.push(middle..range.end);
                stack.push(range.start..middle);
            }
            _ => segments.push(range),
        }
    }
}
